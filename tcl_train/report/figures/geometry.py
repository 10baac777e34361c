"""Uniformity against tolerance (Wang & Liu, CVPR 2021): what a temperature trades for what."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tcl_train.report.figures.style import (
    MOST_LINES,
    NARROW,
    Drawing,
    legend_below,
    look,
    new_figure,
    plain,
)
from tcl_train.report.measures import BY_KEY, Measure
from tcl_train.report.settings import NOT_SET, label_of, order_of
from tcl_train.report.tables import Group, Table

TEMPERATURE = "tau"
POINTS_PER_INCH = 72
LETTER_WIDTH, LABEL_HEIGHT = 4.8, 9.0  # in points

Point = tuple[Group, float, float]  # with its uniformity and tolerance


def uniformity_tolerance(table: Table, measure: Measure) -> Iterator[Drawing]:  # noqa: ARG001
    """A point a group; groups that differ in their temperature only are joined in its order."""
    uniformity, tolerance = BY_KEY["geometry/uniformity"], BY_KEY["geometry/tolerance"]
    series: dict[str, list[Point]] = {}
    for group in table.groups:
        even, tolerant = group.summary(uniformity), group.summary(tolerance)
        if even and tolerant:
            others = {k: v for k, v in group.values.items() if k != TEMPERATURE}
            series.setdefault(label_of(others), []).append((group, even.mean, tolerant.mean))
    if sum(map(len, series.values())) < 2:
        return
    shown = dict(list(series.items())[:MOST_LINES])
    figure, (axes,) = new_figure(NARROW)
    for number, (name, points) in enumerate(shown.items()):
        points.sort(key=lambda point: order_of(point[0].values.get(TEMPERATURE, NOT_SET)))
        _, x, y = zip(*points, strict=True)
        axes.plot(x, y, label=plain(name), **look(number))
    axes.set_xlabel("uniformity (lower: more even)")
    axes.set_ylabel("tolerance (mean cosine within a class)")
    if list(shown) != ["all runs"]:
        legend_below(figure, [plain(name) for name in shown])
    _label_temperatures(figure, axes, [point for points in shown.values() for point in points])
    caption = "Of the normalised test features; means over seeds."
    if len(shown) < len(series):
        caption = f"The first {len(shown)} of {len(series)} combinations. {caption}"
    yield Drawing("uniformity_tolerance", "Uniformity against tolerance", caption, figure)


def _label_temperatures(figure: Figure, axes: Axes, points: list[Point]) -> None:
    """Beside each point, unless it would lie on the label of an earlier one."""
    figure.draw_without_rendering()  # which settles where the points lie
    taken: list[tuple[float, float, float]] = []
    for group, u, t in points:
        if TEMPERATURE not in group.values:
            continue
        text = plain(f"τ {group.values[TEMPERATURE]}")
        width = LETTER_WIDTH * len(text)
        x, y = axes.transData.transform((u, t)) * POINTS_PER_INCH / figure.dpi
        if any(
            a - width < x < a + width_before and abs(y - b) < LABEL_HEIGHT
            for a, b, width_before in taken
        ):
            continue
        taken.append((x, y, width))
        axes.annotate(
            text,
            (u, t),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=7.5,
        )
