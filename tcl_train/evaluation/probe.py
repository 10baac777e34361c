"""A probe's input, and the classifier that it gives.

N: images; D: features; K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tcl_train.data.augment import Augment
from tcl_train.data.dataset import Split
from tcl_train.evaluation.features import Features, apply_frozen
from tcl_train.runtime.device import Runtime


@dataclass(frozen=True, kw_only=True)
class ProbeInput:
    """A frozen encoder, its features of the training images, and the images for probes that want
    views. A probe sees neither test nor validation images.

    seen: whether pretraining saw the training images; None: not known.
    """

    encoder: nn.Module
    train: Features
    train_split: Split
    num_classes: int
    augment: Augment
    runtime: Runtime
    seed: int
    batch_size: int
    seen: bool | None = True

    def extracted_by(self, encoder: nn.Module, split: Split) -> Tensor:
        """Features (N, D) of a split, as those of the training images were extracted."""
        return apply_frozen(encoder, split, self.augment.normalize, self.runtime)


class Classifier(NamedTuple):
    """What a probe has learned: an encoder, which is the given one unless the probe trains it, and
    scores (N, K) of its features. protocol: how, in words."""

    encoder: nn.Module
    head: Callable[[Tensor], Tensor]
    protocol: Mapping[str, Any]

    @torch.no_grad()
    def scores(self, given: ProbeInput, split: Split, x_ND: Tensor | None = None) -> Tensor:
        """Of a split, float32 (N, K); x_ND: its features by the encoder that the probe was given,
        where they are known."""
        if x_ND is None or self.encoder is not given.encoder:
            x_ND = given.extracted_by(self.encoder, split)
        return self.head(x_ND)


class Probe(Protocol):
    def __call__(self, given: ProbeInput) -> Classifier: ...
