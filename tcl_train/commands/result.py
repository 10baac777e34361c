"""What `result.json` holds, and how it is said in one line."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train import __version__
from tcl_train.build import Settings
from tcl_train.data.dataset import DataSet
from tcl_train.engine.fit import Trainer
from tcl_train.run.directory import RunDir


def assemble_result(
    config: DictConfig,
    settings: Settings,
    data: DataSet,
    trainer: Trainer,
    measures: dict[str, Any],
    *,
    wall_seconds: float,
    commit: str | None,
) -> dict[str, Any]:
    """Measures first, then what they were measured of and with."""
    names = config.names
    return {
        **measures,
        "dataset": names.dataset,
        "num_pretrain": len(data.pretrain),
        "num_train": len(data.train if data.train is not None else data.pretrain),
        "num_test": 0 if data.test is None else len(data.test),
        "num_classes": len(data.classes),
        "loss": {"name": names.loss, **_parameters(config.loss)},
        "supervised": settings.supervised,
        "views": settings.views,
        "view_size": settings.view_size,
        "encoder": names.encoder,
        "projector": names.projector,
        "augment": names.augment,
        "second_view": names.get("second_view"),
        "optimizer": names.optimizer,
        "lr": settings.lr,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "steps": trainer.step,
        "image_views_seen": trainer.meter.images * settings.views,
        "seed": settings.seed,
        **trainer.meter.total(),
        "pretrain_seconds": trainer.meter.seconds,
        "wall_seconds": wall_seconds,
        "device": device_name(trainer.runtime.device),
        "threads": torch.get_num_threads(),
        "precision": trainer.runtime.precision,
        "torch_version": torch.__version__,
        "tcl_train_version": __version__,
        "git_commit": commit,
        "overrides": OmegaConf.to_object(config.overrides),
    }


def summary(result: dict[str, Any], run_dir: RunDir) -> str:
    """The last line of a run: the accuracy, how it was measured, and where all of it is."""
    if result["top1"] is None:
        return f"no top-1: these images have no labels; encoder and metrics in {run_dir}"
    parts = [
        f"linear probe of frozen features, {result['probe']['optimiser'].split(',')[0]}, "
        f"on {result['num_test']} test images of {result['dataset']}",
        f"kNN {result['knn_top1']:.2f} %",
    ]
    if result["random_encoder_top1"] is not None:
        parts.append(f"untrained encoder {result['random_encoder_top1']:.2f} %")
    if "classifier_top1" in result:
        parts.append(f"its own classifier {result['classifier_top1']:.2f} %")
    return f"top-1 {result['top1']:.2f} % ({'; '.join(parts)}) in {run_dir}"


def _parameters(node: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "_target_"}


def device_name(device: torch.device) -> str:
    """The device with its maker's name where that is known: `cuda (NVIDIA H100)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


def git_commit() -> str | None:
    """The commit of the checkout that runs, with `+` where it has changes; None when installed."""
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
