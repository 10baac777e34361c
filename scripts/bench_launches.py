"""How many kernels a training step starts on a GPU, and how often it copies and waits, by phase.

    python scripts/bench_launches.py                    # --groups augment method optimizer
    python scripts/bench_launches.py --groups optimizer --encoder resnet50 --batch-size 256

Counted on fake CUDA tensors, so that no GPU is needed; launches.py says what counts. For each
choice of a group, the second step of a run on 32 x 32 images, 2 views each unless the choice says
otherwise. Methods bring their own augmentation and optimiser, presets and optimisers are counted
with the contrastive method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from bench_record import Table
from fake_gpu import ENCODER_BACKWARD, LOSS_BACKWARD, fake_gpu, fake_step
from launches import OUTSIDE, Counts, LaunchCounter

from tcl_train.cli.choices import choices
from tcl_train.cli.compose import compose_run

GROUPS = ("augment", "method", "optimizer")
SIDE = 32
PHASES = (
    "augment",
    "encode",
    "teacher",
    "loss",
    LOSS_BACKWARD,
    ENCODER_BACKWARD,
    "backward",
    "optimizer",
    OUTSIDE,
)


def count(words: list[str], *, side: int = SIDE) -> LaunchCounter:
    """Of a run's second step, when the optimiser has its state."""
    config = compose_run(["dataset=cifar100", "device=cuda", *words]).config
    with fake_gpu(), fake_step(config, side=side) as step:
        with LaunchCounter():
            step()
        with LaunchCounter() as counter:
            step()
    return counter


def words_for(group: str, choice: str) -> list[str]:
    words = [f"{group}={choice}"]
    if group == "method":
        return [*words, "loss=ce"] if choice == "cross_entropy" else words
    return words if group == "augment" else [*words, "augment=crop_flip"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--out", type=Path, default=Path("results/bench_launches.csv"))
    given = parser.parse_args()
    table = Table(given.out, torch.device("cpu"))
    common = {"encoder": given.encoder, "batch": given.batch_size, "precision": given.precision}
    always = [
        f"encoder={given.encoder}",
        f"batch_size={given.batch_size}",
        f"precision={given.precision}",
    ]
    for group in given.groups:
        for choice in choices(group):
            counter = count([*words_for(group, choice), *always])
            assert set(counter.phases) <= set(PHASES), counter.phases.keys()
            phases = {name: counter.phases[name] for name in PHASES if name in counter.phases}
            for phase, counts in {**phases, "all": counter.total}.items():
                table.add({**common, "choice": f"{group}={choice}", **row(phase, counts)})


def row(phase: str, counts: Counts) -> dict[str, str | int]:
    numbers = {name: getattr(counts, name) for name in ("launches", "copies", "blocking")}
    return {"phase": phase, **numbers}


if __name__ == "__main__":
    main()
