"""From a checkpoint to what was trained: the encoder, also with its projector, and what computes
features with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from tcl_train.building.parts import build_encoder, build_projector
from tcl_train.data.normalize import Normalize
from tcl_train.errors import RequestError
from tcl_train.methods.method import embedding_dim
from tcl_train.models.encoder import Encoder
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.processes import ALONE, Processes

ENCODER_PARTS = ("method", "about")  # of a checkpoint
ENCODER, PROJECTOR = "encoder", "projector"  # whose output features may be


def load_encoder(run: str | Path, *, trust: Sequence[str] = ()) -> Encoder:
    """The encoder of a run, in evaluation mode, on the CPU: (N, 3, H, W) -> (N, feature_dim).

    Normalise images as pretraining did: values in [0, 1], minus `encoder.mean`, divided by
    `encoder.std` (one value per channel); repeat a grey channel three times.

    Args:
        run: the run directory; the run may be unfinished, but needs a checkpoint.
        trust: packages, besides tcl_train, whose functions the run's config may call.

    Raises:
        RequestError: there is no run or no whole checkpoint, the two do not match, or the config
            calls a function of another package.
    """
    run_dir = RunDir(run)
    config = run_dir.read_config(trust)
    return restore_encoder(config, checkpoint.load(run_dir.last_checkpoint, needed=ENCODER_PARTS))


def restore_encoder(config: DictConfig, state: Mapping[str, Any]) -> Encoder:
    """The encoder of a loaded checkpoint; every key must match."""
    about = state["about"]
    encoder = build_encoder(config, image_size=about["image_size"])
    _load(encoder, ENCODER, state)
    encoder.mean, encoder.std = tuple(about["mean"]), tuple(about["std"])
    encoder.image_size, encoder.classes = about["image_size"], tuple(about["classes"])
    return encoder.eval()


class Projected(nn.Sequential):
    """Encoder and projector: (N, 3, H, W) -> (N, feature_dim)."""

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__(encoder, projector)
        self.feature_dim = embedding_dim(encoder, projector)


def restore_features(
    config: DictConfig, state: Mapping[str, Any], features: str
) -> Encoder | Projected:
    """The encoder of a loaded checkpoint, or with features=projector both, in evaluation mode.

    Raises:
        RequestError: the checkpoint does not fit the config, or has no projector.
    """
    encoder = restore_encoder(config, state)
    if features == ENCODER:
        return encoder
    if not _below(PROJECTOR, state):
        names = config.names
        raise RequestError(
            f"features={features}: method={names.get('method')} with projector="
            f"{names.get('projector')} has none; give features={ENCODER}"
        )
    projector = build_projector(config, feature_dim=encoder.feature_dim)
    _load(projector, PROJECTOR, state)
    return Projected(encoder, projector).eval()


def _load(module: nn.Module, part: str, state: Mapping[str, Any]) -> None:
    try:
        module.load_state_dict(_below(part, state))
    except RuntimeError as error:
        raise RequestError(
            f"the checkpoint does not fit its config's {part} ({str(error).splitlines()[0]})"
        ) from error


def _below(part: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one part of the method, under the keys that they have in it."""
    prefix, stored = f"{part}.", state["method"]
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """What computes features of images elsewhere than in a data set.

    module: (N, 3, S, S) -> (N, dim). normalize: as in pretraining. step: the number of training
    steps that the encoder has seen.
    """

    module: nn.Module
    dim: int
    normalize: Normalize
    runtime: Runtime
    step: int


def build_embedder(
    run: str | Path,
    *,
    layer: str = ENCODER,
    device: str = "auto",
    precision: str | None = None,
    trust: Sequence[str] = (),
    processes: Processes = ALONE,
) -> Embedder:
    """The trained encoder of a run, or with layer=projector both.

    precision: None is the run's.

    Raises:
        RequestError: as :func:`load_encoder`, and where there is no such layer or device.
    """
    run_dir = RunDir(run)
    config = run_dir.read_config(trust)
    state = checkpoint.load(run_dir.last_checkpoint, needed=ENCODER_PARTS)
    module = restore_features(config, state, layer)
    precision = config.get("precision", "auto") if precision is None else precision
    runtime = Runtime(device=device, precision=precision, processes=processes)
    about = state["about"]
    normalize = Normalize(
        size=about["image_size"], mean=tuple(about["mean"]), std=tuple(about["std"])
    )
    return Embedder(
        module=runtime.place(module).eval(),
        dim=module.feature_dim,
        normalize=normalize,
        runtime=runtime,
        step=state["step"],
    )
