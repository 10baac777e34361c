"""A measure by group, and over each setting that was varied: means with standard deviation, and the
points of single seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from tcl_train.report.figures.style import (
    GREY,
    MOST_LINES,
    NARROW,
    Drawing,
    jitter,
    legend_below,
    look,
    new_figure,
    plain,
    setting_axis,
)
from tcl_train.report.measures import Measure
from tcl_train.report.settings import NOT_SET, label_of
from tcl_train.report.tables import Group, Table

MOST_GROUPS = 20
SPREAD = "Mean ± standard deviation over seeds; small points are single seeds."


def by_group(table: Table, measure: Measure) -> Iterator[Drawing]:
    """All groups below each other; of many, the best."""
    count = len(table.ranked(measure))
    if count < 2:
        return
    shown = table.leading(measure, MOST_GROUPS)
    caption = SPREAD
    if len(shown) < count:
        caption = f"The best {len(shown)} of {count} groups. {SPREAD}"
    figure, (axes,) = new_figure((NARROW[0], max(1.8, 0.9 + 0.27 * len(shown))))
    for row, group in enumerate(shown):
        summary = group.summary(measure)
        assert summary is not None
        values = list(group.by_seed(measure).values())
        axes.plot(values, row + jitter(len(values), 0.12), "o", color=GREY, alpha=0.45, ms=3)
        axes.errorbar(
            summary.mean,
            row,
            xerr=summary.sd,
            color=look(0)["color"],
            marker="D",
            ms=4.5,
            capsize=3,
        )
    axes.set_yticks(range(len(shown)), [plain(group.title) for group in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(measure.axis)
    yield Drawing(f"{_stem(measure)}_by_group", f"{measure.title} by group", caption, figure)


def _stem(measure: Measure) -> str:
    return measure.key.rpartition("/")[2]


def over_settings(table: Table, measure: Measure) -> Iterator[Drawing]:
    """A figure a setting, with a line for each combination of the other ones."""
    for key in table.differences.keys:
        series = _series(table, measure, key)
        if not series:
            continue
        best = sorted(series, key=lambda name: -_highest(series[name], measure))[:MOST_LINES]
        shown = [name for name in series if name in best]
        figure, (axes,) = new_figure(NARROW)
        values = [group.values[key] for name in shown for group in series[name]]
        places, numeric = setting_axis(axes, key, values)
        for number, name in enumerate(shown):
            _draw_series(axes, series[name], measure, places, number, len(shown), joined=numeric)
            axes.plot([], [], label=plain(name), **_line(number, joined=numeric))
        axes.set_ylabel(measure.axis)
        if shown != ["all runs"]:
            legend_below(figure, [plain(name) for name in shown])
        caption = SPREAD
        if len(shown) < len(series):
            caption = f"The best {len(shown)} of {len(series)} combinations. {SPREAD}"
        name = f"{_stem(measure)}_over_{key.replace('.', '_')}"
        yield Drawing(name, f"{measure.title} over {key}", caption, figure)


def _series(table: Table, measure: Measure, key: str) -> dict[str, list[Group]]:
    """Groups that differ in one setting only, under the name of the other ones; those that stand
    alone are left out."""
    found: dict[str, list[Group]] = {}
    for group in table.groups:
        if group.values[key] == NOT_SET or not group.by_seed(measure):
            continue
        others = {k: v for k, v in group.values.items() if k != key}
        name = label_of(others) + (f" [{group.protocol}]" if group.protocol else "")
        found.setdefault(name, []).append(group)
    return {name: groups for name, groups in found.items() if len(groups) > 1}


def _highest(groups: list[Group], measure: Measure) -> float:
    return max(measure.score(s.mean) for group in groups if (s := group.summary(measure)))


def _draw_series(
    axes: Axes,
    groups: list[Group],
    measure: Measure,
    places: dict[str, float],
    number: int,
    count: int,
    *,
    joined: bool,
) -> None:
    """joined: by a line. Words have no distance, so that their points stand side by side."""
    key = next(k for k in groups[0].values if groups[0].values[k] != groups[1].values[k])
    groups = sorted(groups, key=lambda group: places[group.values[key]])
    step = (3 if joined else min(14, 60 / count)) / 72  # inches, so that series do not hide others
    aside = ScaledTranslation((number - (count - 1) / 2) * step, 0, axes.figure.dpi_scale_trans)
    moved = axes.transData + aside
    x, means, spreads = [], [], []
    colour = look(number)["color"]
    for group in groups:
        summary = group.summary(measure)
        assert summary is not None
        x.append(places[group.values[key]])
        means.append(summary.mean)
        spreads.append(summary.sd or 0.0)
        values = list(group.by_seed(measure).values())
        x_values = [x[-1]] * len(values)
        ends = (summary.mean - spreads[-1], summary.mean + spreads[-1])
        # matplotlib sees no data in what is moved aside
        axes.update_datalim([(x[-1], y) for y in (*values, *ends)])
        axes.plot(x_values, values, "o", color=colour, alpha=0.4, ms=3.6, mew=0, transform=moved)
    axes.autoscale_view()
    line = _line(number, joined=joined)
    axes.errorbar(x, means, yerr=spreads, capsize=3, elinewidth=1.1, transform=moved, **line)


def _line(number: int, *, joined: bool) -> dict[str, Any]:
    return look(number) if joined else look(number) | {"linestyle": "none"}
