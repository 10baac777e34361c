"""What `result.json` holds, and the last line that a run prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tcl_train import __version__
from tcl_train.building.run import Run
from tcl_train.data.dataset import DataSet
from tcl_train.evaluation.finetune import FINE_TUNING
from tcl_train.run.directory import RunDir
from tcl_train.runtime.device import Runtime, device_name

PARTS = ("loss", "method", "optimizer", "scheduler")  # stored with their parameters


def assemble_result(
    run: Run, measures: dict[str, Any], *, wall_seconds: float, commit: str | None
) -> dict[str, Any]:
    """Measures first, then what they were measured of and with."""
    config, settings, data, trainer = run.config, run.settings, run.data, run.trainer
    names = config.names
    return {
        **measures,
        **about_data(names.dataset, data),
        "num_pretrain": len(data.pretrain),
        "image_size": data.image_size,
        "mean": list(data.mean),
        "std": list(data.std),
        **{part: {"name": names[part], **_parameters(config[part])} for part in PARTS},
        "augment": {"name": names.augment, **_transforms(config.augment)},
        "second_view": None
        if names.get("second_view") is None
        else {"name": names.second_view, **_transforms(config.second_view)},
        "multicrop": None if not config.get("multicrop") else _multicrop(config),
        "supervised": settings.supervised,
        "labelled": settings.labelled,
        "views": settings.views,
        "view_size": settings.view_size,
        "encoder": encoder_name(config),
        "encoder_parameters": encoder_parameters(config),
        "projector": names.projector,
        "processes": trainer.runtime.processes.count,
        "lr": settings.lr,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "steps": trainer.step,
        "image_views_seen": trainer.meter.images * trainer.views.count,
        "pixels_seen": trainer.pixels_seen(),
        "seed": settings.seed,
        **trainer.meter.total(),
        "pretrain_seconds": trainer.meter.seconds,
        "wall_seconds": wall_seconds,
        **about_machine(trainer.runtime, commit),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": settings.deterministic,
        "overrides": OmegaConf.to_object(config.overrides),
    }


def about_data(name: str, data: DataSet) -> dict[str, Any]:
    """What was scored: the data set, where it lies, and its splits."""
    return {
        "dataset": name,
        "dataset_root": data.root,
        "test_split": data.test_split,
        "num_train": len(data.train if data.train is not None else data.pretrain),
        "num_validation": 0 if data.validation is None else len(data.validation),
        "num_test": 0 if data.test is None else len(data.test),
        "num_classes": len(data.classes),
        "left_out": list(data.left_out),
    }


def about_machine(runtime: Runtime, commit: str | None) -> dict[str, Any]:
    """What computed it, and by which code."""
    return {
        "device": device_name(runtime.device),
        "precision": runtime.precision,
        "torch_version": torch.__version__,
        "tcl_train_version": __version__,
        "git_commit": commit,
    }


def how_scored(result: Mapping[str, Any]) -> str:
    """Whose accuracy top-1 is, in words."""
    tuned = result["probe"]["optimiser"].startswith(FINE_TUNING)
    return "fine-tuned encoder" if tuned else "linear probe of frozen features"


def summary_line(result: dict[str, Any], run_dir: RunDir) -> str:
    """The accuracy, how it was measured, and where the run is."""
    if result["top1"] is None:
        return f"no top-1: these images have no labels; encoder and metrics in {run_dir}"
    parts = [
        f"{how_scored(result)}, {result['probe']['optimiser'].split(',')[0]}, "
        f"on {result['num_test']} test images of {result['dataset']}",
        f"kNN {result['knn_top1']:.2f} %",
    ]
    if result["val_top1"] is not None:
        parts.append(f"{result['val_top1']:.2f} % of {result['num_validation']} validation images")
    if result["random_encoder_top1"] is not None:
        parts.append(f"untrained encoder {result['random_encoder_top1']:.2f} %")
    if "classifier_top1" in result:
        parts.append(f"its own classifier {result['classifier_top1']:.2f} %")
    return f"top-1 {result['top1']:.2f} % ({'; '.join(parts)}) in {run_dir}"


def encoder_parameters(config: DictConfig) -> dict[str, Any]:
    return _parameters(config.encoder)


def encoder_name(config: DictConfig) -> str:
    """That of the choice; of a library's encoder also its name there: `timm resnet18d`."""
    own = config.encoder.get("name")
    return config.names.encoder if own is None else f"{config.names.encoder} {own}"


def _parameters(node: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "_target_"}


def _multicrop(config: DictConfig) -> dict[str, Any]:
    groups = {
        str(name): {"count": group.count, "size": group["size"], **_transforms(group.augment)}
        for name, group in config.multicrop.items()
    }
    return {"name": config.names.multicrop, **groups}


def _transforms(node: DictConfig) -> dict[str, Any]:
    """The transforms of a preset by their names, each with its parameters."""
    return {str(name): _parameters(transform) for name, transform in node.items()}
