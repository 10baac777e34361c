"""Time and memory of a loss's value and gradient, beside other ways to compute it.

    pip install -e '.[bench]'
    python scripts/bench_losses.py

Rows of D = 128 dimensions, 100 labels. In one run, alternating, medians of milliseconds:

    ours     tcl_train.losses
    dense    the same loss written plainly on the whole matrix of similarities, by autograd
    pml      pytorch-metric-learning's loss of that name
    product  z @ z.T / tau and logsumexp over it, with its gradient: less than any of these losses

Memory is the growth of the process's peak, measured in a separate process each; on a GPU, of what
torch has allocated. What would hold the whole matrix is left out above --largest-dense rows.
"""

from __future__ import annotations

import argparse
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


def metric_learning(name: str) -> Loss:
    from pytorch_metric_learning import losses

    return getattr(losses, name)(temperature=TAU)


IMPLEMENTATIONS: dict[str, dict[str, Callable[[], Loss]]] = {
    "tcl": {
        "ours": lambda: TCL(TAU, K1, K2),
        "dense": lambda: dense_tcl,
        "product": lambda: product,
    },
    "supcon": {
        "ours": lambda: SupCon(TAU),
        "dense": lambda: dense_supcon,
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
    kinds = [
        kind
        for kind in IMPLEMENTATIONS[loss]
        if kind == "ours" or (n <= given.largest_dense and dtype == "float32")
    ]
    made = {kind: IMPLEMENTATIONS[loss][kind]() for kind in kinds}
    z_ND, y_N = rows_of(loss, n, getattr(torch, dtype), device)
    times = time_all(made, z_ND, y_N, given.seconds, given.turns)
    row: dict[str, Any] = {"loss": loss, "rows": n, "dtype": dtype}
    for kind in ("ours", "dense", "pml", "product"):
        row[f"{kind} ms"] = 1e3 * times[kind] if kind in times else "-"
    row["ours ns/pair"] = 1e9 * times["ours"] / n**2
    for kind in ("dense", "pml", "product"):
        row[f"x {kind}"] = times[kind] / times["ours"] if kind in times else "-"
    for kind in ("ours", "dense", "pml"):
        row[f"{kind} MiB"] = memory_of(loss, kind, n, dtype, device) if kind in times else "-"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", default=list(IMPLEMENTATIONS))
    sizes = [1024, 4096, 8192, 16384, 32768, 65536]
    parser.add_argument("--rows", nargs="+", type=int, default=sizes)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--largest-dense", type=int, default=8192)
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
