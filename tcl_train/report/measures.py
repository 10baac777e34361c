"""The measures of a result that tables and figures show, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """key: in result.json, with a slash between an object and its key. higher_wins: None where
    neither direction is better."""

    key: str
    title: str
    unit: str
    decimals: int
    higher_wins: bool | None
    help: str

    @property
    def axis(self) -> str:
        """A figure's label."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def of(self, result: Mapping[str, Any]) -> float | None:
        """The value; None where it is missing or not a finite number."""
        node: Any = result
        for part in self.key.split("/"):
            node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(node, bool) or not isinstance(node, (int, float)) or not math.isfinite(node):
            return None
        return float(node)

    def score(self, value: float) -> float:
        """A number that is higher for what is better."""
        return -value if self.higher_wins is False else value

    def text(self, value: float | None, *, signed: bool = False) -> str:
        """A number as the tables show it."""
        if value is None:
            return "–"
        return f"{value:{'+' if signed else ''}.{self.decimals}f}".replace("-", "−")


MEASURES = (
    Measure("top1", "top-1", "%", 2, True, "linear probe of frozen features, test split"),
    Measure("top5", "top-5", "%", 2, True, "linear probe of frozen features, test split"),
    Measure("knn_top1", "kNN top-1", "%", 2, True, "nearest neighbours, test split"),
    Measure("val_top1", "validation top-1", "%", 2, True, "linear probe, validation images"),
    Measure("classifier_top1", "own classifier", "%", 2, True, "the run's classifier, test split"),
    Measure("random_encoder_top1", "untrained", "%", 2, True, "linear probe, untrained encoder"),
    Measure("calibration_error", "ECE", "%", 2, False, "expected calibration error of the probe"),
    Measure("geometry/uniformity", "uniformity", "", 3, None, "lower: spread more evenly"),
    Measure("geometry/tolerance", "tolerance", "", 3, None, "mean cosine within a class"),
    Measure("geometry/alignment", "alignment", "", 3, None, "distance between two views"),
    Measure("geometry/rankme", "RankMe", "", 1, None, "effective rank of the features"),
    Measure("corruption/mean_top1", "corrupted top-1", "%", 2, True, "probe on corrupted images"),
    Measure("images_per_second", "images/s", "", 0, None, "pretraining"),
    Measure("wall_seconds", "seconds", "", 0, None, "the whole run"),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
# Those by which settings may be compared, of those that every run may have.
RANKED = tuple(m.key for m in MEASURES if m.higher_wins is not None and "/" not in m.key)


def measures_in(results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """Those that any of the results has, also of probes that were fitted to few labels."""
    few: dict[str, None] = {}
    for result in results:
        labels = result.get("few_labels")
        few |= dict.fromkeys(labels if isinstance(labels, Mapping) else ())
    possible = [*MEASURES, *(_of_few_labels(amount) for amount in few)]
    return [m for m in possible if any(m.of(result) is not None for result in results)]


def _of_few_labels(amount: str) -> Measure:
    """amount: of images a class, or below 1 a share of them."""
    share = float(amount) if amount.replace(".", "", 1).isdigit() else 1
    title = f"{100 * share:g} % of labels" if share < 1 else f"{amount} a class"
    help_ = "top-1 of probes fitted to few labels, mean of the draws"
    return Measure(f"few_labels/{amount}/top1", title, "%", 2, True, help_)
