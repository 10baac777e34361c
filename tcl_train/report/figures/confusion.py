"""Which classes the linear probe takes for which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from tcl_train.report.figures.style import NARROW, Drawing, new_figure, plain
from tcl_train.report.measures import Measure
from tcl_train.report.run_files import Run
from tcl_train.report.tables import Group, Table

MOST_NUMBERED = 12  # classes, whose percentages can be read in their cells
MOST_NAMED = 120
NAMED_PAIRS = 3


def confusion(table: Table, measure: Measure) -> Iterator[Drawing]:
    """Of the first run with predictions of the best group that has any."""
    found = run_with_predictions(table, measure)
    if found is None:
        return
    group, run = found
    with np.load(run.predictions, allow_pickle=False) as stored:
        labels_N, predicted_N = stored["labels"], stored["predicted"]
        classes = [str(name) for name in stored["classes"]]
    percent_KK = confusion_percent(labels_N, predicted_N, len(classes))
    order_K = similar_together(percent_KK)
    percent_KK = percent_KK[np.ix_(order_K, order_K)]
    classes = [classes[k] for k in order_K]
    count = len(classes)
    side = NARROW[0] if count <= MOST_NUMBERED else 9.0
    figure, (axes,) = new_figure((side, 0.88 * side))
    # by the square root, so that rare mistakes are seen, too
    picture = axes.imshow(
        percent_KK,
        cmap="Blues",
        norm=PowerNorm(0.5, 0, 100),
        interpolation="nearest",
        aspect="auto",
    )
    figure.colorbar(picture, ax=axes, shrink=0.5, aspect=30, label="% of a class's images")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    size = 8.5 if count <= MOST_NUMBERED else max(3.6, min(8.0, 420 / count))
    if count <= MOST_NAMED:
        names = [plain(name, 18) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.tick_params(length=0, pad=1.5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    if count <= MOST_NUMBERED:
        for row, column in zip(*np.nonzero(percent_KK >= 0.5), strict=True):
            value = percent_KK[row, column]
            colour = "white" if value > 35 else "#1f2937"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, size=7.5)
    tested = f"{group.label}, seed {run.seed}: {len(labels_N):,} test images"
    caption = f"{tested}, percent of each class. {_worst(percent_KK, classes)}"
    yield Drawing("confusion", "Confusion of the linear probe", caption, figure)


def run_with_predictions(table: Table, measure: Measure) -> tuple[Group, Run] | None:
    """The best group's first run that has stored its predictions readably, or the next best's."""
    for group in table.ranked(measure):
        for run in group.runs:
            if _readable(run.predictions):
                return group, run
    return None


def _readable(path: Path) -> bool:
    """Whether a file holds labels, predictions and names that fit together."""
    try:
        # numpy leaves a file open that it cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            labels_N, predicted_N = stored["labels"], stored["predicted"]
            known = len(stored["classes"])
    except (OSError, ValueError, KeyError, EOFError):
        return False
    except Exception as error:  # zipfile's and zlib's own, of a file cut short
        if type(error).__module__ not in ("zipfile", "zlib"):
            raise
        return False
    both = np.concatenate([np.ravel(labels_N), np.ravel(predicted_N)])
    fits = labels_N.shape == predicted_N.shape and labels_N.ndim == 1 and len(labels_N) > 0
    return bool(fits and both.dtype.kind in "iu" and both.min() >= 0 and both.max() < known)


def confusion_percent(
    labels_N: NDArray[np.int64], predicted_N: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Row k: of the images of class k, how many percent were taken for each class (K, K). A class
    without images has zeros."""
    counts_KK = np.bincount(labels_N * count + predicted_N, minlength=count * count)
    counts_KK = counts_KK.reshape(count, count).astype(float)
    return 100 * counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)


def similar_together(percent_KK: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of the classes in which those that are taken for each other stand together (average
    linkage, leaves ordered optimally); few classes, whose cells show all, stay as they are."""
    count = len(percent_KK)
    if count <= MOST_NUMBERED:
        return np.arange(count)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    alike_KK = percent_KK + percent_KK.T
    distance_KK = alike_KK.max() - alike_KK
    np.fill_diagonal(distance_KK, 0)
    condensed = squareform(distance_KK, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=count <= 500))


def _worst(percent_KK: NDArray[np.float64], classes: list[str]) -> str:
    mistaken_KK = percent_KK.copy()
    np.fill_diagonal(mistaken_KK, 0)
    flat = np.argsort(mistaken_KK, axis=None)[::-1][:NAMED_PAIRS]
    pairs = [np.unravel_index(place, mistaken_KK.shape) for place in flat]
    named = [
        f"{classes[row]} for {classes[column]} ({mistaken_KK[row, column]:.0f} %)"
        for row, column in pairs
        if mistaken_KK[row, column] > 0
    ]
    return f"Most often taken wrongly: {', '.join(named)}." if named else "No image taken wrongly."
