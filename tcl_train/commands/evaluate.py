"""Evaluating the encoder of a run again, on its own or on another data set."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tcl_train import build as configs
from tcl_train.errors import RequestError
from tcl_train.evaluation.evaluate import evaluate
from tcl_train.pretrained import NEEDED, restore_encoder
from tcl_train.run import checkpoint
from tcl_train.run.checkpoint import write_atomically
from tcl_train.run.directory import RunDir
from tcl_train.runtime.device import Runtime

log = logging.getLogger(__name__)


def reevaluate(config: DictConfig, run_dir: RunDir) -> dict[str, Any]:
    """Probes the frozen encoder in `run_dir` as the config says, writes the measures to
    `evaluations/` and returns them. Images are normalised by their own data set's mean and
    standard deviation, as in the usual transfer protocol.

    Raises:
        RequestError: no checkpoint, no labels, or a wrong value.
    """
    settings = configs.read_settings(config)
    probe = configs.build_probe(config)
    state = checkpoint.load(run_dir.checkpoints / "last.pt", needed=NEEDED)
    encoder = restore_encoder(config, state)
    runtime = Runtime(device=settings.device, precision=settings.precision, compile=False)
    data = configs.build_data(config, supervised=True)
    untrained = configs.build_encoder(config, image_size=state["about"]["image_size"])
    measures = evaluate(
        runtime.place(encoder),
        untrained,
        data,
        probe,
        augment=configs.build_augment(config, data),
        runtime=runtime,
        seed=settings.seed,
        batch_size=settings.batch_size,
        mirror_features=settings.mirror_features,
    )
    assert data.train is not None
    assert data.test is not None
    result = {
        **measures,
        "dataset": config.names.dataset,
        "num_train": len(data.train),
        "num_test": len(data.test),
        "num_classes": len(data.classes),
        "step": state["step"],
    }
    path = _free_name(run_dir.path / "evaluations", f"{config.names.dataset}-{config.names.probe}")
    text = json.dumps(result, indent=2) + "\n"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from error
    log.info(
        "top-1 %.2f %% (linear probe of frozen features, %s; kNN %.2f %%; untrained encoder "
        "%.2f %%) in %s",
        result["top1"],
        config.names.dataset,
        result["knn_top1"],
        result["random_encoder_top1"],
        path,
    )
    return result


def _free_name(folder: Path, stem: str) -> Path:
    """The first of stem.json, stem-2.json, ... that is not there."""
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    return path
