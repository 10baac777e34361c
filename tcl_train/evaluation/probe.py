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
    """A frozen encoder, its features of both splits, and the images for probes that want views.

    seen: whether pretraining saw the training images.
    """

    encoder: nn.Module
    train: Features
    test: Features
    train_split: Split
    num_classes: int
    augment: Augment
    runtime: Runtime
    seed: int
    batch_size: int
    seen: bool = True


class ProbeResult(NamedTuple):
    """Accuracy on the test split in percent, and a description of the protocol."""

    top1: float
    top5: float
    protocol: Mapping[str, Any]


class Probe(Protocol):
    def __call__(self, given: ProbeInput) -> ProbeResult: ...
