"""Encoders out of run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tcl_train.build import build_encoder
from tcl_train.errors import RequestError
from tcl_train.models.encoder import Encoder
from tcl_train.run.checkpoint import load
from tcl_train.run.directory import RunDir

PREFIX = "encoder."
NEEDED = ("method", "about")


def load_encoder(run: str | Path) -> Encoder:
    """The encoder of a run, in evaluation mode, on the CPU: (N, 3, H, W) -> (N, feature_dim).

    It takes images as pretraining saw them: values in [0, 1], minus `encoder.mean`, divided by
    `encoder.std` (a value a channel), grey ones as three equal channels.

    Args:
        run: the run directory; finished or not, with a checkpoint.

    Raises:
        RequestError: there is no run or no whole checkpoint, or the two do not match.
    """
    run_dir = RunDir(run)
    return restore_encoder(
        run_dir.read_config(), load(run_dir.checkpoints / "last.pt", needed=NEEDED)
    )


def restore_encoder(config: DictConfig, state: dict[str, Any]) -> Encoder:
    """The encoder of a loaded checkpoint; every key must match."""
    about = state["about"]
    encoder = build_encoder(config, image_size=about["image_size"])
    weights = {
        key.removeprefix(PREFIX): value
        for key, value in state["method"].items()
        if key.startswith(PREFIX)
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(
            f"the checkpoint does not fit its config's encoder ({str(error).splitlines()[0]})"
        ) from error
    encoder.mean, encoder.std = tuple(about["mean"]), tuple(about["std"])
    return encoder.eval()
