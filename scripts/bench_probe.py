"""How long the L-BFGS probe takes, the choice of its L2 strength included.

    python scripts/bench_probe.py

Features are drawn so that classes overlap (a probe reaches about 60 %), which is the slow case: a
probe that separates its classes converges sooner.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from bench_record import Table

from tcl_train.evaluation.features import Features, accuracy
from tcl_train.evaluation.lbfgs import LBFGSProbe
from tcl_train.evaluation.probe import ProbeInput
from tcl_train.runtime.randomness import generator


def draw(count: int, dim: int, classes: int, name: str, device: torch.device) -> Features:
    """Unequal directions, as features have: the k-th has standard deviation 1 / sqrt(k)."""
    centre_KD = torch.randn(classes, dim, generator=generator(0, "centres"))
    g = generator(0, name)
    y_N = torch.randint(classes, (count,), generator=g)
    noise_ND = torch.randn(count, dim, generator=g)
    x_ND = (0.1 * centre_KD[y_N] + noise_ND) / torch.arange(1, dim + 1).sqrt()
    return Features(x_ND.to(device), y_N.to(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/bench_probe.csv"))
    given = parser.parse_args()
    device = torch.device(given.device)

    shape = (given.dim, given.classes)
    unused: Any = None
    probe_input = ProbeInput(
        encoder=unused,  # this probe looks at features only
        train=draw(given.rows, *shape, "train", device),
        train_split=unused,
        num_classes=given.classes,
        augment=unused,
        runtime=unused,
        seed=1,
        batch_size=256,
    )
    begin = perf_counter()
    classifier = LBFGSProbe()(probe_input)
    seconds = perf_counter() - begin
    test = draw(given.rows // 5, *shape, "test", device)
    Table(given.out, device).add(
        {
            "rows": given.rows,
            "dim": given.dim,
            "classes": given.classes,
            "seconds": seconds,
            "l2": classifier.protocol["l2"],
            "top1": accuracy(classifier.head(test.x_ND), test.y_N),
        }
    )


if __name__ == "__main__":
    main()
