"""What can be seen of an encoder while it is trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.features import extract
from tcl_train.evaluation.geometry import rankme, uniformity
from tcl_train.evaluation.knn import knn_top1
from tcl_train.evaluation.measure import sampled
from tcl_train.runtime.device import Runtime

log = logging.getLogger(__name__)

MONITORS = ("knn",)
MOST_TRAINING_IMAGES = 25_600  # as many as RankMe is published for


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """After every `every` epochs: kNN accuracy on the images that were kept out of pretraining,
    with training images as neighbours, and the geometry of the features. Of a larger training set a
    sample is taken, always the same.
    """

    data: DataSet
    normalize: Normalize
    runtime: Runtime
    seed: int
    every: int

    def __call__(self, encoder: nn.Module, epochs_done: int) -> dict[str, float]:
        """Scalars for the log; none after other epochs."""
        if epochs_done % self.every:
            return {}
        assert self.data.validation is not None
        train = extract(encoder, self._sample(), self.normalize, self.runtime)
        held_out = extract(encoder, self.data.validation, self.normalize, self.runtime)
        found = {
            "monitor/knn_top1": knn_top1(train, held_out, num_classes=len(self.data.classes)),
            "monitor/rankme": rankme(train.x_ND),
            "monitor/uniformity": uniformity(held_out.x_ND),
        }
        log.info(
            "epoch %d: kNN %.2f %% of %d validation images, RankMe %.1f, uniformity %.2f",
            epochs_done,
            found["monitor/knn_top1"],
            len(self.data.validation),
            found["monitor/rankme"],
            found["monitor/uniformity"],
        )
        return found

    def _sample(self) -> Split:
        train = self.data.train
        assert train is not None
        if len(train) <= MOST_TRAINING_IMAGES:
            return train
        return train.chosen(sampled(len(train), MOST_TRAINING_IMAGES, self.seed, "monitor"))
