"""Weights that a file or a run holds. Nothing of what is stored with them is carried out."""

from __future__ import annotations

import argparse
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from tcl_train.errors import RequestError
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

KEY = "encoder.weights"
SAFETENSORS = ".safetensors"


class Ignored:
    """Stands for an object that is not needed, and accepts any constructor arguments."""

    def __new__(cls, *_: Any, **__: Any) -> Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """In place of a defaultdict, which torch refuses to fill when it reads only weights."""
    return {}


# In solo-learn's checkpoints of SimSiam and NNSiam, whose schedule stores its own method.
IGNORED = (
    "builtins.getattr",
    "functools.partial",
    "solo.methods.base.static_lr",
    "solo.utils.lars.LARS",
    "solo.utils.lr_scheduler.LinearWarmupCosineAnnealingLR",
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.sgd.SGD",
)
# Plain data beside the tensors: settings of SupContrast's checkpoints, configs of solo-learn's.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *(DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode),
    *(typing.Any, dict, list, int),
    (_plain_dict, "collections.defaultdict"),
    *((Ignored, name) for name in IGNORED),
]


def read_weights(given: str) -> Mapping[str, Any]:
    """What is stored in a FILE (.pt, .pth, .ckpt, .safetensors) or in the last checkpoint of a
    RUN_DIR, on the CPU.

    Raises:
        RequestError: there is no such file or run, or it holds something else.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        run_dir = RunDir(path)
        if not run_dir.started:
            raise RequestError(
                f"{KEY}={given}: contains no run (no config.yaml); give a run directory or a file"
            )
        return checkpoint.load(run_dir.last_checkpoint, needed=("method",))["method"]
    if not path.is_file():
        raise RequestError(
            f"{KEY}={given}: there is no such file or run; give imagenet, a FILE of weights or a "
            "run directory"
        )
    stored = _safetensors(path) if path.suffix == SAFETENSORS else _torchs(path)
    if not isinstance(stored, dict):
        raise RequestError(
            f"{KEY}={given}: holds no dictionary of weights; store model.state_dict() instead"
        )
    return stored


def _torchs(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # of files that others wrote
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise RequestError(f"{KEY}={path}: {_why(error)}") from error


def _why(error: Exception) -> str:
    said = str(error)
    _, found, rest = said.partition("GLOBAL ")
    if found:
        return f"holds {rest.split()[0]}, code that is not run here; store model.state_dict() alone"
    return f"not a file of weights ({type(error).__name__}); give one that torch.save wrote"


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise RequestError(
            f"{KEY}={path}: safetensors is not installed; pip install 'tcl-train[export]'"
        ) from None
    try:
        return load_file(path)
    except Exception as error:  # its own kind, which is not public
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{KEY}={path}: not a whole safetensors file ({first})") from error
