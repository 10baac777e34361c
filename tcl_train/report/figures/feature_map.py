"""A map of test features in two dimensions, with the images themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from tcl_train.report.figures.confusion import run_with_predictions
from tcl_train.report.figures.style import Drawing, legend_below, look, new_figure, plain
from tcl_train.report.measures import Measure
from tcl_train.report.tables import Table

FEWEST = 3  # images
FEWEST_FOR_TSNE = 100
CELLS = 28  # thumbnails along a side, at most
SIDE = 7.4  # inches
MOST_COLOURED = 10  # classes; of more, the thumbnails alone tell


def feature_map(table: Table, measure: Measure) -> Iterator[Drawing]:
    """Of the run whose confusion is shown, where it has stored features."""
    found = run_with_predictions(table, measure)
    sample = read_sample(found[1].predictions) if found else None
    if found is None or sample is None:
        return
    group, run = found
    places_n2, method = _layout_of(run.predictions, sample)
    figure, (axes,) = new_figure((SIDE, SIDE))
    coloured = len(sample.classes) <= MOST_COLOURED
    _draw_points(axes, places_n2, sample, coloured=coloured)
    zoom = 0.72 * SIDE * 72 / CELLS / max(sample.thumbnails_nSSC.shape[1:3])
    for i in without_overlap(places_n2):
        edge = look(sample.labels_n[i])["color"] if coloured else "#d1d5db"
        image = OffsetImage(sample.thumbnails_nSSC[i], zoom=zoom)
        frame = {"edgecolor": edge, "lw": 1.2}
        axes.add_artist(AnnotationBbox(image, places_n2[i], pad=0.05, bboxprops=frame))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.margins(0.04)
    if coloured:
        legend_below(figure, [plain(name, 18) for name in sample.classes])
    caption = (
        f"{method} of the features of {len(places_n2):,} test images, each of unit length: "
        f"{group.label}, seed {run.seed}. Neighbours are alike; long distances say little."
    )
    yield Drawing("feature_map", "Map of the features", caption, figure)


@dataclass(frozen=True)
class Sample:
    """Of n test images: unit features (n, D), labels and thumbnails; and the names of all
    classes."""

    features_nD: NDArray[np.float32]
    labels_n: NDArray[np.int64]
    thumbnails_nSSC: NDArray[np.uint8]
    classes: list[str]


def read_sample(path: Path) -> Sample | None:
    """From predictions that are readable; None where they hold no features, hardly any,
    or such as do not fit together."""
    with np.load(path, allow_pickle=False) as stored:
        if not {"sample", "sample_features", "thumbnails"} <= {*stored.files}:
            return None
        labels_N, sample_n, classes = stored["labels"], stored["sample"], stored["classes"]
        features_nD = stored["sample_features"].astype(np.float32)
        thumbnails_nSSC = stored["thumbnails"]
    fit = features_nD.ndim == 2 and thumbnails_nSSC.ndim == 4 and sample_n.ndim == 1
    if not fit or not len(sample_n) == len(features_nD) == len(thumbnails_nSSC) >= FEWEST:
        return None
    if sample_n.min() < 0 or sample_n.max() >= len(labels_N):
        return None
    labels_n = labels_N[sample_n]
    lengths_n1 = np.linalg.norm(features_nD, axis=1, keepdims=True)
    kept_n = np.isfinite(lengths_n1[:, 0]) & (lengths_n1[:, 0] > 0)
    if kept_n.sum() < FEWEST:
        return None
    features_nD = features_nD[kept_n] / lengths_n1[kept_n]
    return Sample(features_nD, labels_n[kept_n], thumbnails_nSSC[kept_n], [*map(str, classes)])


def layout(features_nD: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    """Places in the plane (n, 2), the same each time, and the method: t-SNE, or PCA of few rows."""
    if len(features_nD) < FEWEST_FOR_TSNE:
        from sklearn.decomposition import PCA

        return PCA(2, random_state=0).fit_transform(features_nD), "PCA"
    from sklearn.manifold import TSNE

    tsne = TSNE(2, init="pca", random_state=0, perplexity=30, max_iter=350)
    return tsne.fit_transform(features_nD), "t-SNE"


_layouts: dict[tuple[Path, int], tuple[NDArray[np.float32], str]] = {}


def _layout_of(path: Path, sample: Sample) -> tuple[NDArray[np.float32], str]:
    """Laid out once for a report that is drawn again and again."""
    key = path, path.stat().st_mtime_ns
    if key not in _layouts:
        _layouts[key] = layout(sample.features_nD)
    return _layouts[key]


def without_overlap(places_n2: NDArray[np.float32]) -> list[int]:
    """Rows whose thumbnails do not cover each other's, as many as a pass over all finds."""
    span = np.maximum(places_n2.max(0) - places_n2.min(0), 1e-12)
    scaled_n2 = places_n2 / span * CELLS
    kept: list[int] = []
    for i, place in enumerate(scaled_n2):
        if not kept or (np.abs(scaled_n2[kept] - place).max(1) >= 1).all():
            kept.append(i)
    return kept


def _draw_points(
    axes: Axes, places_n2: NDArray[np.float32], sample: Sample, *, coloured: bool
) -> None:
    x_n, y_n = places_n2.T
    if not coloured:
        axes.scatter(x_n, y_n, s=6, color="#9ca3af", lw=0)
        return
    for k, name in enumerate(sample.classes):
        own_n, style = sample.labels_n == k, look(k)
        colour, marker = style["color"], style["marker"]
        label = plain(name, 18)
        axes.scatter(x_n[own_n], y_n[own_n], s=22, color=colour, marker=marker, lw=0, label=label)
