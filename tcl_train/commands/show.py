"""What a run shows in TensorBoard besides its curves."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tcl_train.building.run import Run
from tcl_train.data.augment.picture import picture_of_views
from tcl_train.evaluation.predictions import Predictions
from tcl_train.run.board import Board
from tcl_train.run.directory import RunDir
from tcl_train.run.projector import Embeddings, write_projector
from tcl_train.runtime.randomness import generator

PICTURED = 8  # images

# What runs are compared by: choices of groups, and root settings where the run has them.
CHOICES = ("dataset", "method", "loss", "encoder", "projector", "augment", "optimizer")
SETTINGS = (
    *("tau", "k1", "k2", "lr", "batch_size", "epochs", "views", "view_size", "supervised", "seed"),
)
# Typed words that change no number, or only say where something lies.
NOT_COMPARED = (
    *("data", "checkpoint", "trust", "resume", "resume_extend", "log_every", "profile"),
    *("device", "compile", "monitor", "monitor_every", "hydra", "dataset.root"),
)


def hyperparameters(config: DictConfig) -> dict[str, str | float | bool]:
    """The run's row in the HParams tab: the main choices and settings, and all else that was typed
    for it."""
    found = {name: config.names[name] for name in CHOICES}
    found |= {name: config[name] for name in SETTINGS if config.get(name) is not None}
    for word in config.overrides:
        key, _, typed = word.lstrip("+~").partition("=")
        root = key.replace("/", ".").split(".")[0]
        if key not in found and key not in NOT_COMPARED and root not in NOT_COMPARED:
            value = OmegaConf.select(config, key) if "@" not in key else None
            found[key] = typed if value is None or OmegaConf.is_dict(value) else value
    found["seed"] = str(found["seed"])  # TensorBoard writes numbers as 1.0000
    return {k: v if isinstance(v, bool | int | float) else str(v) for k, v in found.items()}


def show_start(run: Run, board: Board) -> None:
    """The command with its settings, and pictures of views."""
    command = shlex.join(["tcl-train", *run.config.overrides])
    table = markdown_table(("setting", "value"), hyperparameters(run.config))
    board.text(0, "run", f"    {command}\n\n{table}")
    show_views(run, board)


def show_views(run: Run, board: Board) -> None:
    """The first images with views of them, drawn for the picture."""
    trainer = run.trainer
    for group, images_BCHW in trainer.views.with_images(trainer.loader.first_images(PICTURED)):
        picture_CHW = picture_of_views(
            group.augment.with_size(group.size(0)),
            images_BCHW,
            views=group.count,
            generator=generator(run.settings.seed, "picture"),
        )
        board.picture(0, group.name, picture_CHW)


MEASURES = (
    *("top1", "top5", "knn_top1", "val_top1", "random_encoder_top1", "classifier_top1"),
    *("calibration_error", "geometry", "probe", "knn", "num_train", "num_test"),
    *("images_per_second", "wall_seconds"),
)


def show_result(
    result: Mapping[str, Any], predictions: Predictions | None, board: Board, run_dir: RunDir
) -> None:
    """The final numbers with their protocol, and the features of a sample of test images where
    they have labels."""
    measures = {name: result[name] for name in MEASURES if result.get(name) is not None}
    board.text(result["steps"], "evaluation", markdown_table(("measure", "value"), flat(measures)))
    board.finish(result["steps"], result, extended=run_dir.extended)
    if board.writes and predictions is not None:
        write_projector(run_dir.tensorboard, embeddings_of(predictions))


def embeddings_of(found: Predictions) -> Embeddings:
    """The features of the sample of test images."""
    return Embeddings(
        rows={"features": found.sample_features},
        columns={
            "class": found.classes[found.labels[found.sample]].tolist(),
            "predicted": found.classes[found.predicted[found.sample]].tolist(),
            "image": found.sample.tolist(),
        },
        thumbnails_nSS3=found.thumbnails,
    )


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def markdown_table(header: tuple[str, str], rows: Mapping[str, Any]) -> str:
    """Two columns; floats with four digits."""
    lines = [" | ".join(header), "--- | ---"]
    for name, value in rows.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"{name} | {text.replace('|', '&#124;')}")
    return "\n".join(lines)
