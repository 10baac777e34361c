"""Each self-supervised method on the digits, beside the untrained encoder.

    python scripts/digits_methods.py                          # ten minutes on one core
    python scripts/digits_methods.py --methods byol --seeds 1

A ResNet-8 is trained for 20 epochs of five steps, far fewer than the methods are made for, with the
settings below in place of theirs: weaker augmentation, for the images have 8 x 8 pixels; small
projectors, queues and numbers of prototypes; teachers that follow in a hundred steps. The table has
the accuracy of the linear probe and of kNN, the number of epochs after which the run warned of a
collapse or of a loss at its chance level, whether it did at the end, and what is looked at then.
`mocov2_running` is MoCo v2 whose teacher has running statistics.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from bench_record import Table

from tcl_train.building.run import build_run
from tcl_train.cli.compose import compose_run
from tcl_train.commands.train import train
from tcl_train.methods.diagnostics import find_collapse
from tcl_train.run.directory import RunDir

COMMON = (
    *("dataset=digits", "encoder=resnet8", "device=cpu", "precision=fp32", "epochs=20"),
    *("augment=simaug", "augment.crop.scale=[0.5,1]", "augment.flip.p=0"),
    *("scheduler.warmup_epochs=2", "projector.hidden_dim=256", "projector.out_dim=64"),
    *("random_encoder_baseline=false", "log_every=1000"),
)
MOCO = (
    *("method=mocov2", "lr=0.06", "method.queue=1024", "method.momentum=0.99"),
    "projector.hidden_norm=true",
)
METHODS = {
    "untrained": ("method=simclr",),
    "simclr": ("method=simclr",),
    "mocov2": MOCO,
    "mocov2_running": (*MOCO, "method.own_statistics=false"),
    "byol": ("method=byol", "method.predictor_hidden_dim=256", "method.momentum=0.95"),
    "simsiam": ("method=simsiam", "projector.out_dim=256", "method.predictor_hidden_dim=64"),
    "barlow_twins": ("method=barlow_twins", "projector.out_dim=256"),
    "vicreg": ("method=vicreg", "projector.out_dim=256"),
    "swav": (
        *("method=swav", "method.prototypes=64", "method.queue=0"),
        "method.frozen_until=0.05",
    ),
    "dino": (
        *("method=dino", "method.prototypes=64", "method.momentum=0.99", "lr=0.6"),
        "method.teacher_tau=0.04",
    ),
    "nnclr": ("method=nnclr", "method.queue=1024", "method.predictor_hidden_dim=256"),
}
SCALARS = (
    *("embedding_spread", "effective_dimensions", "assignment_information"),
    *("loss", "chance_level"),
)


def run_words(name: str, *words: str) -> list[str]:
    """Of the later of two words for the same key, which may not be given twice."""
    by_key = {word.split("=")[0]: word for word in (*COMMON, *METHODS[name], *words)}
    return list(by_key.values())


def measure(name: str, seed: int, *words: str) -> dict[str, Any]:
    """A row of the table."""
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(folder)
        config = compose_run(run_words(name, f"seed={seed}", *words)).config
        if name == "untrained":
            run, written = build_run(config), []
            result = run.evaluator.measure(run.trainer.method.encoder).values
        else:
            result = train(config, run_dir, resume=False)
            written = run_dir.metrics.read_text().splitlines()
    epochs = [line for line in map(json.loads, written) if "loss" in line]
    found = [find_collapse(scalars, "") for scalars in epochs]
    last = epochs[-1] if epochs else {}
    return {
        "method": name,
        "seed": seed,
        "top1": result["top1"],
        "knn_top1": result["knn_top1"],
        "warned_epochs": sum(collapse is not None for collapse in found),
        "collapsed": bool(found) and found[-1] is not None,
        **{key: last.get(key, "") for key in SCALARS},
        "seconds": perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("results/digits_methods.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(given.out, torch.device("cpu"))
    for name in given.methods:
        for seed in given.seeds:
            table.add(measure(name, seed))


if __name__ == "__main__":
    main()
