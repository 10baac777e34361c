"""How long the geometry of features and kNN take, how much memory, and whether kNN is exact.

    python scripts/bench_geometry.py

Geometry: alignment, uniformity and tolerance over all pairs, and RankMe. kNN is compared with brute
force: all similarities in float64, sorted in full. Other processes on the machine make `seconds`
longer; `cpu_seconds` are what this one computed, over all its threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from bench_probe import draw
from bench_record import Table
from torch import Tensor

from tcl_train.evaluation.features import Features
from tcl_train.evaluation.geometry import alignment, rankme, tolerance, uniformity
from tcl_train.evaluation.knn import NEIGHBOURS, TEMPERATURE, knn_scores

CHUNK = 500


def measured(name: str, test: Features, function: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """A row of the table, and what the function gives. mb: the most memory that was held while it
    ran, above what was held before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = _memory_mb("VmRSS")
    wall, cpu = perf_counter(), process_time()
    result = function()
    row = {
        "what": name,
        "rows": len(test.x_ND),
        "dim": test.x_ND.shape[1],
        "threads": torch.get_num_threads(),
        "seconds": perf_counter() - wall,
        "cpu_seconds": process_time() - cpu,
        "mb": _memory_mb("VmHWM") - before,
        "unlike_brute_force": "",
    }
    return row, result


def _memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def geometry(test: Features, other: Features) -> tuple[float | None, ...]:
    x_ND, y_N = test
    return (
        alignment(x_ND, other.x_ND[: len(x_ND)]),
        uniformity(x_ND),
        tolerance(x_ND, y_N),
        rankme(x_ND),
    )


def brute_force(train: Features, x_ND: Tensor, classes: int) -> Tensor:
    """Predictions (N,)."""
    reference_MD = F.normalize(train.x_ND.double())
    predicted = []
    for chunk_ND in F.normalize(x_ND.double()).split(CHUNK):
        similarity_NM, order_NM = (chunk_ND @ reference_MD.T).sort(1, descending=True)
        vote_NJ = (similarity_NM[:, :NEIGHBOURS] / TEMPERATURE).exp()
        class_NJ = train.y_N[order_NM[:, :NEIGHBOURS]]
        score_NK = vote_NJ.new_zeros(len(chunk_ND), classes).scatter_add_(1, class_NJ, vote_NJ)
        predicted.append(score_NK.argmax(1))
    return torch.cat(predicted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results/bench_geometry.csv"))
    given = parser.parse_args()
    device = torch.device("cpu")
    shape = (given.dim, given.classes)
    test, train = (
        draw(given.test, *shape, "test", device),
        draw(given.train, *shape, "train", device),
    )
    table = Table(given.out, device)
    row, _ = measured("geometry", test, lambda: geometry(test, train))
    table.add(row)
    row, score_NK = measured(
        "knn", test, lambda: knn_scores(train, test.x_ND, num_classes=given.classes)
    )
    expected_N = brute_force(train, test.x_ND, given.classes)
    table.add({**row, "unlike_brute_force": (score_NK.argmax(1) != expected_N).sum().item()})


if __name__ == "__main__":
    main()
