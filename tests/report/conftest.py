"""Run directories as training leaves them, made without training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

CONFIG: dict[str, Any] = {
    "seed": 1,
    "epochs": 4,
    "batch_size": 128,
    "lr": 0.1,
    "device": "auto",
    "precision": "auto",
    "tau": 0.1,
    "names": {"dataset": "digits", "loss": "supcon", "encoder": "resnet8", "probe": "lbfgs"},
    "overrides": [],
    "searchpath": [],
    "encoder": {"_target_": "tcl_train.models.resnet8", "width": 16},
    "loss": {"_target_": "tcl_train.losses.SupCon", "tau": 0.1},
    "dataset": {"_target_": "tcl_train.data.digits.digits", "root": None},
}
RESULT: dict[str, Any] = {
    "top1": 90.0,
    "top5": 99.0,
    "knn_top1": 88.0,
    "dataset": "digits",
    "num_train": 1437,
    "num_test": 360,
    "num_classes": 10,
    "probe": {"features": "frozen", "optimiser": "L-BFGS", "l2": 0.01, "l2_chosen_by": "top-1"},
    "knn": {"k": 20, "temperature": 0.07},
    "steps": 40,
    "epochs": 4,
    "precision": "fp32",
}


def _write_run(
    path: Path,
    *,
    loss: str = "supcon",
    dataset: str = "digits",
    result: dict[str, Any] | None = None,
    finished: bool = True,
    lines: int = 8,
    **settings: Any,
) -> Path:
    path.mkdir(parents=True)
    names = CONFIG["names"] | {"loss": loss, "dataset": dataset}
    own = {key.replace("__", "."): value for key, value in settings.items()}
    words = [f"loss={loss}", *(f"{key}={value}" for key, value in own.items())]
    config = CONFIG | {"names": names, "overrides": words}
    for key, value in own.items():
        group, dot, name = key.partition(".")
        config = config | {group: config[group] | {name: value} if dot else value}
    (path / "config.yaml").write_text(yaml.dump(config), encoding="utf-8")
    records = [
        {
            "step": 5 * (i + 1),
            "epoch": i // 2,
            "loss": 5 - i / lines,
            "embedding_spread": 0.5,
            "gradient_from_positives": 1 / (i + 1),
            "gradient_from_negatives": 0.01,
            "monitor/knn_top1": 10.0 * i,
        }
        for i in range(lines)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (path / "metrics.jsonl").write_text(text)
    if finished:
        whole = RESULT | {"dataset": dataset, "seed": config["seed"]} | (result or {})
        (path / "result.json").write_text(json.dumps(whole))
    return path


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """`write_run(path, loss="tcl", k1=5, seed=2, result={"top1": 91.0})`; `encoder__width=8` is
    `encoder.width`."""
    return _write_run


@pytest.fixture(scope="session")
def write_sweep() -> Callable[..., Path]:
    """`write_sweep(folder)`: supcon and tcl with k1 of 0, 50 and 5000, three seeds each; more k1 is
    better."""

    def write(folder: Path, *, seeds: int = 3, **keys: Any) -> Path:
        for seed in range(1, seeds + 1):
            noise = 0.3 * math.sin(7 * seed)
            found = {"top1": 89 + noise + 0.1 * math.cos(seed)}
            _write_run(folder / f"supcon-{seed}", seed=seed, result=found, **keys)
            for k1 in (0, 50, 5000):
                found = {"top1": 90 + math.log10(k1 + 1) + noise + 0.1 * math.sin(k1 + seed)}
                place = folder / f"tcl-{k1}-{seed}"
                _write_run(place, loss="tcl", k1=k1, seed=seed, result=found, **keys)
        return folder

    return write


@pytest.fixture(scope="session")
def write_predictions() -> Callable[..., None]:
    """`write_predictions(run, classes=["a", "b"])`: of 120 test images, some of them taken wrongly;
    with features and thumbnails of 40."""

    def write(run: Path, *, classes: list[str], count: int = 120, sample: int = 40) -> None:
        rng = np.random.default_rng(0)
        labels_N = np.arange(count) % len(classes)
        sample_n = rng.choice(count, sample, replace=False)
        np.savez_compressed(
            run / "predictions.npz",
            labels=labels_N,
            predicted=np.where(rng.random(count) < 0.8, labels_N, (labels_N + 1) % len(classes)),
            confidence=rng.random(count).astype(np.float32),
            classes=np.array(classes),
            sample=sample_n,
            sample_features=rng.normal(size=(sample, 16)).astype(np.float16),
            thumbnails=rng.integers(0, 255, (sample, 8, 8, 3), dtype=np.uint8),
        )

    return write
