"""What helps when the embeddings collapse, for each loss and method.

    python scripts/collapse_advice.py    # results/collapse_advice.csv

On the digits with ResNet-8, 6 epochs of batches of 128: the smallest learning rate of a ladder at
which the embeddings collapse (spread below 0.05 at the end, or no finite loss), and the same run
with a tenth of it, with warm-up over half of the run, and for TCL with k1 growing over half of the
run. `spread` is that of the last batch; nan: the loss was not finite. `-`: no rate collapsed.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from bench_record import Table

from tcl_train.building.run import build_run
from tcl_train.cli.choices import choices
from tcl_train.cli.compose import compose_run
from tcl_train.methods.diagnostics import COLLAPSED_SPREAD

LADDER = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
EPOCHS = 6
COMMON = (
    *("dataset=digits", "encoder=resnet8", "encoder.width=8", "augment=crop", "device=cpu"),
    *("precision=fp32", "batch_size=128", f"epochs={EPOCHS}"),
)
METHODS = ("mocov2", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "nnclr")
SMALL = {  # queues and prototypes that fit the few images
    "mocov2": ("method.queue=512", "method.momentum_end=0.99"),
    "nnclr": ("method.queue=512",),
    "swav": ("method.prototypes=100", "method.queue=0"),
    "dino": ("method.prototypes=256", "method.momentum=0.99"),
}


def spread(*words: str) -> float:
    """Of the embeddings of the last batch."""
    trainer = build_run(compose_run([*COMMON, *words]).config).trainer
    trainer.method.train()
    for epoch in range(trainer.epochs):
        for batch in trainer.loader.epoch(epoch):
            step = trainer.train_step(batch)
            if not step.loss.isfinite():
                return math.nan
    return trainer.method.diagnostics(step)["embedding_spread"].item()


def healthy(value: float) -> bool:
    return value >= COLLAPSED_SPREAD  # not of nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/collapse_advice.csv"))
    given = parser.parse_args()
    table = Table(given.out, torch.device("cpu"))
    of_losses = [("loss", name) for name in choices("loss") if name not in ("ce", "of_method")]
    cases = [*of_losses, ("loss k1=50000", "tcl"), *(("method", name) for name in METHODS)]
    for kind, name in cases:
        words = [f"{kind.split()[0]}={name}", *kind.split()[1:]]
        words += ["encoder=resnet8", "scheduler.warmup_epochs=0"]
        if kind == "method":
            words += ["augment=crop", *SMALL.get(name, ())]
        found = ((lr, spread(*words, f"lr={lr}")) for lr in LADDER)
        lr, value = next((pair for pair in found if not healthy(pair[1])), (None, None))
        row: dict[str, object] = {"kind": kind, "name": name, "lr": lr or "-", "spread": value}
        remedies: dict[str, tuple[str, ...]] = {"lr / 10": (f"lr={(lr or 0) / 10}",)}
        remedies["warm-up"] = (f"lr={lr}", f"scheduler.warmup_epochs={EPOCHS // 2}")
        if name == "tcl":
            remedies["k1 grows"] = (f"lr={lr}", f"k1_warmup_epochs={EPOCHS // 2}")
        for remedy, changes in remedies.items():
            row[remedy] = spread(*words, *changes) if lr else "-"
        row.setdefault("k1 grows", "-")
        table.add(row)


if __name__ == "__main__":
    main()
