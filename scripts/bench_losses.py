"""Time and memory of a loss's value and gradient, beside other ways to compute it.

    pip install -e '.[bench]'
    python scripts/bench_losses.py

Rows of D = 128 dimensions, 100 labels. In one run, alternating, medians of milliseconds:

    ours     tcl_train.losses
    dense    the same loss written plainly on the whole matrix of similarities, by autograd
    pml      pytorch-metric-learning's loss of that name
    product  z @ z.T / tau and logsumexp over it, with its gradient: less than any of these losses
    flex     the same loss on torch's fused flex attention, whose log-sum-exp is the denominator's
             logarithm; with --flex, on a GPU only, where it is compiled

Memory is the growth of the process's peak, measured in a separate process each; on a GPU, of what
torch has allocated. What would hold the whole matrix is left out above --largest-dense rows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from bench_record import Table
from torch import Tensor

from tcl_train.losses import TCL, NTXent, SupCon

KINDS = ("ours", "dense", "pml", "product", "flex")
DIM, LABELS, TAU, K1, K2 = 128, 100, 0.1, 5000.0, 1.0

Loss = Callable[[Tensor, Tensor], Tensor]


def dense_parts(z_ND: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unit_ND = F.normalize(z_ND.float())
    sim_NM = unit_ND @ unit_ND.T
    same_NM = y_N[:, None] == y_N
    return sim_NM, (same_NM.float().fill_diagonal_(0)), (~same_NM).float()


def dense_tcl(z_ND: Tensor, y_N: Tensor) -> Tensor:
    sim_NM, positive_NM, negative_NM = dense_parts(z_ND, y_N)
    e_NM = (sim_NM / TAU).exp()
    d_N = (
        (e_NM * positive_NM).sum(1)
        + K1 * ((-sim_NM).exp() * positive_NM).sum(1)
        + K2 * (e_NM * negative_NM).sum(1)
    )
    log_p_NM = sim_NM / TAU - d_N.log()[:, None]
    return -((log_p_NM * positive_NM).sum(1) / positive_NM.sum(1)).mean()


def dense_supcon(z_ND: Tensor, y_N: Tensor) -> Tensor:
    sim_NM, positive_NM, negative_NM = dense_parts(z_ND, y_N)
    logit_NM = sim_NM / TAU
    logit_NM = logit_NM - logit_NM.max(1, keepdim=True).values.detach()
    d_N = (logit_NM.exp() * (positive_NM + negative_NM)).sum(1)
    log_p_NM = logit_NM - d_N.log()[:, None]
    return -((log_p_NM * positive_NM).sum(1) / positive_NM.sum(1)).mean()


def product(z_ND: Tensor, y_N: Tensor) -> Tensor:  # noqa: ARG001
    unit_ND = F.normalize(z_ND.float())
    return (unit_ND @ unit_ND.T / TAU).logsumexp(1).mean()


def flex_loss(k1: float, k2: float, *, attention: Callable[..., Any] | None = None) -> Loss:
    """TCL, or SupCon with k1 = 0 and k2 = 1. Every row must have a positive. attention: torch's
    flex_attention; None: compiled. TCL's k1 needs a second pass over all pairs."""
    if attention is None:
        from torch.nn.attention.flex_attention import flex_attention

        attention = torch.compile(flex_attention, dynamic=False)

    def loss(z_ND: Tensor, y_N: Tensor) -> Tensor:
        unit_ND = F.normalize(z_ND.float())
        x_11ND = unit_ND[None, None]

        def log_sum(scale: float, score: Callable[..., Tensor]) -> Tensor:
            values = x_11ND[..., :16]  # the fewest that it takes; what becomes of them is not used
            _, log_11N = attention(
                x_11ND, x_11ND, values, score_mod=score, scale=scale, return_lse=True
            )
            return log_11N[0, 0]

        def others(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # noqa: ARG001
            weighted = torch.where(y_N[i] == y_N[j], score, score + math.log(k2))
            return torch.where(i == j, -math.inf, weighted)

        def positives(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # noqa: ARG001
            return torch.where((y_N[i] == y_N[j]) & (i != j), score + math.log(k1), -math.inf)

        log_d_N = log_sum(1 / TAU, others)
        if k1:
            log_d_N = torch.logaddexp(log_d_N, log_sum(-1.0, positives))
        of_label_LD = unit_ND.new_zeros(len(y_N), DIM).index_add(0, y_N, unit_ND)
        count_N = torch.zeros_like(y_N).index_add(0, y_N, torch.ones_like(y_N))[y_N] - 1
        mean_N = ((unit_ND * of_label_LD[y_N]).sum(1) - 1) / count_N
        return (log_d_N - mean_N / TAU).mean()

    return loss


def metric_learning(name: str) -> Loss:
    from pytorch_metric_learning import losses

    return getattr(losses, name)(temperature=TAU)


IMPLEMENTATIONS: dict[str, dict[str, Callable[[], Loss]]] = {
    "tcl": {
        "ours": lambda: TCL(TAU, K1, K2),
        "dense": lambda: dense_tcl,
        "flex": lambda: flex_loss(K1, K2),
        "product": lambda: product,
    },
    "supcon": {
        "ours": lambda: SupCon(TAU),
        "dense": lambda: dense_supcon,
        "flex": lambda: flex_loss(0.0, 1.0),
        "pml": lambda: metric_learning("SupConLoss"),
        "product": lambda: product,
    },
    "ntxent": {
        "ours": lambda: NTXent(TAU),
        "dense": lambda: dense_supcon,
        "pml": lambda: metric_learning("NTXentLoss"),
        "product": lambda: product,
    },
}


def rows_of(loss: str, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z_ND = torch.randn(n, DIM, generator=g).to(device, dtype)
    # NT-Xent: two views of each image; otherwise labels.
    y_N = (
        torch.arange(n) % (n // 2) if loss == "ntxent" else torch.randint(LABELS, (n,), generator=g)
    )
    return z_ND, y_N.to(device)


def value_and_gradient(loss: Loss, z_ND: Tensor, y_N: Tensor) -> float:
    z_ND = z_ND.detach().requires_grad_()
    value = loss(z_ND, y_N)
    value.backward()
    if z_ND.device.type == "cuda":
        torch.cuda.synchronize()
    return value.item()


def time_all(
    losses: dict[str, Loss], z_ND: Tensor, y_N: Tensor, seconds: float, least_turns: int
) -> dict[str, float]:
    """Median seconds of each, alternating; so many turns, then until the time is used. The first
    turn warms up and counts only where there is time for no other. What asks for more memory than
    there is is left out."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    begin = perf_counter()
    turns = 0
    while turns < least_turns or (perf_counter() - begin < seconds and turns < 50):
        for name in list(times):
            start = perf_counter()
            try:
                value_and_gradient(losses[name], z_ND, y_N)
            except RuntimeError as error:
                if "allocate" not in str(error):
                    raise
                del times[name]
            else:
                times[name].append(perf_counter() - start)
        turns += 1
    return {name: statistics.median(values[1:] or values) for name, values in times.items()}


def peak_mib() -> float:
    """The process's peak resident memory since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def memory_growth(
    loss_name: str, kind: str, n: int, dtype: torch.dtype, device: torch.device
) -> float:
    """MiB by which one value and gradient raise the peak, after a small one has loaded all code."""
    loss = IMPLEMENTATIONS[loss_name][kind]()
    value_and_gradient(loss, *rows_of(loss_name, 256, dtype, device))
    z_ND, y_N = rows_of(loss_name, n, dtype, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        value_and_gradient(loss, z_ND, y_N)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    resident = peak_mib()
    value_and_gradient(loss, z_ND, y_N)
    return peak_mib() - resident


def memory_of(loss: str, kind: str, n: int, dtype: str, device: torch.device) -> float:
    """MiB; see :func:`memory_growth`."""
    if device.type == "cuda":  # its allocator can start a new peak
        return memory_growth(loss, kind, n, getattr(torch, dtype), device)
    words = ["--memory-of", loss, kind, str(n), dtype, "--device", device.type]
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def measure(loss: str, n: int, dtype: str, given: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(given.device)
    whole_matrix = n <= given.largest_dense and dtype == "float32"
    fused = given.flex and device.type == "cuda" and dtype == "float32"
    kinds = [
        kind
        for kind in IMPLEMENTATIONS[loss]
        if {"ours": True, "flex": fused}.get(kind, whole_matrix)
    ]
    made = {kind: IMPLEMENTATIONS[loss][kind]() for kind in kinds}
    z_ND, y_N = rows_of(loss, n, getattr(torch, dtype), device)
    times = time_all(made, z_ND, y_N, given.seconds, given.turns)
    row: dict[str, Any] = {"loss": loss, "rows": n, "dtype": dtype}
    for kind in KINDS:
        row[f"{kind} ms"] = 1e3 * times[kind] if kind in times else "-"
    row["ours ns/pair"] = 1e9 * times["ours"] / n**2
    for kind in KINDS[1:]:
        row[f"x {kind}"] = times[kind] / times["ours"] if kind in times else "-"
    for kind in ("ours", "dense", "pml", "flex"):
        row[f"{kind} MiB"] = memory_of(loss, kind, n, dtype, device) if kind in times else "-"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", default=list(IMPLEMENTATIONS))
    sizes = [1024, 4096, 8192, 16384, 32768, 65536]
    parser.add_argument("--rows", nargs="+", type=int, default=sizes)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--largest-dense", type=int, default=8192)
    parser.add_argument("--flex", action="store_true")
    parser.add_argument("--seconds", type=float, default=12.0, help="a table row, roughly")
    parser.add_argument("--turns", type=int, default=1, help="at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/bench_losses.csv"))
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.memory_of:
        loss, kind, n, dtype = given.memory_of
        print(memory_growth(loss, kind, int(n), getattr(torch, dtype), device))
        return
    table = Table(given.out, device)
    for loss in given.losses:
        for n in given.rows:
            for dtype in given.dtypes:
                table.add(measure(loss, n, dtype, given))


if __name__ == "__main__":
    main()
