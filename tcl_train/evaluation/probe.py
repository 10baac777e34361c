"""A linear probe's input and result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import nn

from tcl_train.data.augment import Augment
from tcl_train.data.dataset import Split
from tcl_train.evaluation.features import Features
from tcl_train.runtime.device import Runtime


@dataclass(frozen=True, kw_only=True)
class ProbeInput:
    """A frozen encoder, its features of the splits, and the images for probes that want views.

    validation: training images that were kept out of pretraining and of the probe; None: none were.
    seen: whether pretraining saw the training images.
    """

    encoder: nn.Module
    train: Features
    test: Features
    validation: Features | None = None
    train_split: Split
    num_classes: int
    augment: Augment
    runtime: Runtime
    seed: int
    batch_size: int
    seen: bool = True


class ProbeResult(NamedTuple):
    """Accuracy on the test split in percent, a description of the protocol, and accuracy on the
    validation images where there are any."""

    top1: float
    top5: float
    protocol: Mapping[str, Any]
    val_top1: float | None = None


class Probe(Protocol):
    def __call__(self, given: ProbeInput) -> ProbeResult: ...
