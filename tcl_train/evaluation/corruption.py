"""How accurate the probe is on corrupted images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from tcl_train import checks
from tcl_train.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages
from tcl_train.data.dataset import DataSet, Split
from tcl_train.evaluation.features import accuracy
from tcl_train.evaluation.measure import Evaluated

log = logging.getLogger(__name__)

ALL = "all"


class Corrupted:
    """The measure `corruption`: the probe, fitted to clean training images, is scored on corrupted
    test images, for each kind and severity.

    kinds: names of corruptions, or all; severities: from 1 to 5, or all.
    """

    def __init__(
        self, kinds: str | Sequence[str], severities: str | int | Sequence[int] = ALL
    ) -> None:
        self.kinds = _chosen("corruption", kinds, tuple(CORRUPTIONS))
        self.severities = _chosen("corruption.severity", severities, SEVERITIES)

    def check(self, data: DataSet) -> None:
        pass  # images of any size can be corrupted

    def __call__(self, of: Evaluated) -> Iterator[tuple[str, Any]]:
        top1: dict[str, dict[str, float]] = {}
        for kind in self.kinds:
            top1[kind] = {str(s): self._top1(of, kind, s) for s in self.severities}
            shown = ", ".join(f"{value:.2f}" for value in top1[kind].values())
            log.info("corruption %s: top-1 %s %%", kind, shown)
        yield (
            "corruption",
            {
                "mean_top1": mean(value for of_kind in top1.values() for value in of_kind.values()),
                "top1": top1,
            },
        )
        yield (
            "corruption_protocol",
            "probe fitted to clean training images, scored on the corrupted test split; the "
            "fifteen kinds of Hendrycks and Dietterich 2019 in five severities, as made by "
            "tcl_train, so not comparable with published figures",
        )

    def _top1(self, of: Evaluated, kind: str, severity: int) -> float:
        images = CorruptedImages(of.test_split.images, kind, severity, of.given.seed)
        score_NK = of.classifier.scores(of.given, Split(images, of.test_split.labels_N))
        return accuracy(score_NK, of.test.y_N)


def _chosen(name: str, given: Any, known: tuple[Any, ...]) -> list[Any]:
    """What was given, in the known order."""
    several = [given] if isinstance(given, str | int) else checks.several(name, given)
    if several == [ALL]:
        return list(known)
    for value in several:
        checks.one_of(f"{name} (or {ALL})", value, known)
    return [value for value in known if value in several]
