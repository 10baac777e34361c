"""What a measure of an encoder looks at, and what it is.

N: test images; K: classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from tcl_train.data.dataset import DataSet, Split
from tcl_train.evaluation.features import Features
from tcl_train.evaluation.probe import Classifier, Probe, ProbeInput
from tcl_train.runtime.randomness import generator

SAMPLED = 1000  # test images


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An encoder with its features, and with what its probe says of the test images.

    given: what the probe was given, with the features of the training images. score_NK: of the
    probe's classifier for the test images.
    """

    given: ProbeInput
    probe: Probe
    classes: tuple[str, ...]
    test_split: Split
    test: Features
    validation_split: Split | None
    validation: Features | None
    classifier: Classifier
    score_NK: Tensor

    @cached_property
    def sample_n(self) -> Tensor:
        """The places of at most 1,000 test images, drawn by the seed, in order."""
        return sampled(len(self.test_split), SAMPLED, self.given.seed, "sample")

    @cached_property
    def sample_nCHW(self) -> Tensor:
        """The images at these places, uint8, on the run's device."""
        batches = self.test_split.images.batches([self.sample_n], self.given.runtime.device)
        return next(iter(batches))


class Measure(Protocol):
    """Yields (name, value), values as JSON has them. The protocol of a number has a name, too."""

    def __call__(self, of: Evaluated) -> Iterable[tuple[str, Any]]: ...


class FurtherMeasure(Measure, Protocol):
    """One that is measured when it is asked for."""

    def check(self, data: DataSet) -> None:
        """Before anything is computed: raises RequestError where these data cannot give it."""


def sampled(count: int, most: int, seed: int, name: str) -> Tensor:
    """Places of `most` of `count` rows, or of all where there are no more, in order."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(seed, name))[:most].sort().values
