"""Scalars over training: of each group the mean over its runs, and the range of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from tcl_train.report.figures.style import (
    LOG_FROM,
    MOST_LINES,
    NARROW,
    WIDE,
    Drawing,
    legend_below,
    look,
    new_figure,
    plain,
)
from tcl_train.report.measures import Measure
from tcl_train.report.run_files import Curve
from tcl_train.report.tables import Group, Table

POINTS = 200  # at which the curves of a group are put together
MARKS = 6  # markers along a curve
RANGE = "Lines are means over the runs of a group, bands reach from the lowest to the highest run."


def training(table: Table, measure: Measure) -> Iterator[Drawing]:
    """The loss, and how far the embeddings spread."""
    yield from _figure(
        table,
        measure,
        {"loss": "loss", "embedding_spread": "spread of the embeddings"},
        "training",
        "Training",
        f"{RANGE} Losses of different kinds are not comparable; a spread near 0 is a collapse.",
    )


def gradients(table: Table, measure: Measure) -> Iterator[Drawing]:
    """How strongly positives pull and negatives push."""
    yield from _figure(
        table,
        measure,
        {
            "gradient_from_positives": "mean gradient from positives",
            "gradient_from_negatives": "mean gradient from negatives",
        },
        "gradients",
        "Gradients from positives and from negatives",
        f"Magnitude of the loss's derivative by the similarities. {RANGE}",
        spread_out=True,
    )


def monitor(table: Table, measure: Measure) -> Iterator[Drawing]:
    """The accuracy that monitor=knn sees while a run trains."""
    yield from _figure(
        table,
        measure,
        {"monitor/knn_top1": "kNN top-1 (%) on held-out training images"},
        "knn_over_training",
        "Nearest neighbours during training",
        RANGE,
    )


def _figure(
    table: Table,
    measure: Measure,
    keys: dict[str, str],
    name: str,
    title: str,
    caption: str,
    *,
    spread_out: bool = False,
) -> Iterator[Drawing]:
    """A panel a key. Of too many groups, the best are shown, or some spread evenly over the
    table."""
    panels = {
        key: text for key, text in keys.items() if any(_has(group, key) for group in table.groups)
    }
    groups = [g for g in table.groups if any(_has(g, key) for key in panels)]
    if not groups:
        return
    if len(groups) > MOST_LINES:
        which = f"{MOST_LINES}, evenly over the table," if spread_out else f"The best {MOST_LINES}"
        caption = f"{which} of {len(groups)} groups. {caption}"
        if spread_out:
            groups = [groups[round(i)] for i in np.linspace(0, len(groups) - 1, MOST_LINES)]
        else:
            leading = table.leading(measure, MOST_LINES)
            groups = [group for group in leading if group in groups] or groups[:MOST_LINES]
    looks = _looks(table, groups)
    figure, all_axes = new_figure(WIDE if len(panels) > 1 else NARROW, 1, len(panels))
    for axes, (key, text) in zip(all_axes, panels.items(), strict=True):
        for number, group in zip(looks, groups, strict=True):
            curves = [run.curves[key] for run in group.runs if key in run.curves]
            curves = [curve for curve in curves if len(curve.y_P)]
            if curves:
                _draw(axes, curves, number)
        axes.set_title(text)
        axes.set_xlabel("epoch")
        _scale_y(axes, key)
    for number, group in zip(looks, groups, strict=True):
        all_axes[0].plot([], [], label=plain(group.title), **look(number))
    legend_below(figure, [plain(group.title) for group in groups])
    yield Drawing(name, title, caption, figure)


def _looks(table: Table, groups: Sequence[Group]) -> list[int]:
    """Numbers for :func:`look`, the same for a group in all figures where the table is small."""
    known = table.groups if len(table.groups) <= MOST_LINES else groups
    return [next(i for i, other in enumerate(known) if other is group) for group in groups]


def _has(group: Group, key: str) -> bool:
    return any(key in run.curves and len(run.curves[key].y_P) for run in group.runs)


def _draw(axes: Axes, curves: Sequence[Curve], number: int) -> None:
    x_P, y_RP = together(curves)
    style = look(number)
    axes.plot(x_P, y_RP.mean(0), markevery=(number % MARKS, max(1, len(x_P) // MARKS)), **style)
    if len(curves) > 1:
        axes.fill_between(x_P, y_RP.min(0), y_RP.max(0), color=style["color"], alpha=0.15, lw=0)


def together(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Several runs' curves at the same places x_P, where all of them have points on both sides:
    y_RP, a row a run, interpolated linearly. Curves without common places reach over all."""
    low, high = max(c.x_P[0] for c in curves), min(c.x_P[-1] for c in curves)
    if low > high:
        low, high = min(c.x_P[0] for c in curves), max(c.x_P[-1] for c in curves)
    longest = max(len(curve.x_P) for curve in curves)
    x_P = np.linspace(low, high, min(POINTS, max(longest, 2)))
    return x_P, np.stack([np.interp(x_P, curve.x_P, curve.y_P) for curve in curves])


def _scale_y(axes: Axes, key: str) -> None:
    """Logarithmic where gradients of several settings differ much; an accuracy has its own."""
    if not key.startswith("gradient"):
        return
    drawn = np.concatenate([np.ravel(line.get_ydata()) for line in axes.lines])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.min() > 0 and drawn.max() / drawn.min() >= LOG_FROM:
        axes.set_yscale("log")
    elif len(drawn) and drawn.min() >= 0:
        axes.set_ylim(bottom=0)
