"""What a data set is, independent of its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tcl_train import checks
from tcl_train.data.images import Images
from tcl_train.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a data set of any kind.

    cache_dir: where decoded images and their statistics are kept.
    memory_limit_gb: image folders that would take more are decoded anew by workers each epoch.
    workers: decoding processes or threads.
    supervised: whether pretraining may see labels.
    """

    cache_dir: Path
    memory_limit_gb: float
    workers: int
    supervised: bool

    def __post_init__(self) -> None:
        checks.number("data.memory_limit_gb", self.memory_limit_gb, at_least=0)
        checks.integer("data.workers", self.workers, at_least=0)


@dataclass(frozen=True)
class Split:
    """Images, and an int64 label for each of them or None."""

    images: Images
    labels_N: Tensor | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set ready for training.

    pretrain: what pretraining sees. train, test: labelled, what the evaluation sees; both None
    for a folder of unlabelled images. image_size: the side of the views that encoders take, in
    pixels (images may be stored larger). mean, std: of the pixel values in [0, 1], one per channel.
    """

    pretrain: Split
    train: Split | None
    test: Split | None
    classes: tuple[str, ...]
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(checks.several(name, getattr(self, name)))
            object.__setattr__(self, name, values)  # as a frozen dataclass does


def check_classes(where: str, train: list[str], test: list[str]) -> None:
    """Raises RequestError when the test split has a class that training lacks."""
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise RequestError(
            f"{where}: the test split has {_few(unknown)}, which the training split lacks; "
            f"training has {len(train)} classes ({_few(train)})"
        )


def _few(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
