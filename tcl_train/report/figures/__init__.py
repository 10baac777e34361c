"""The figures of a report: FIGURES lists the functions that draw them, each from a table and the
measure to show, and each giving nothing where its data are not there. A new one is one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tcl_train.report.figures.accuracy import by_group, over_settings
from tcl_train.report.figures.confusion import confusion
from tcl_train.report.figures.curves import gradients, monitor, training
from tcl_train.report.figures.feature_map import feature_map
from tcl_train.report.figures.geometry import uniformity_tolerance
from tcl_train.report.figures.style import Drawing
from tcl_train.report.measures import Measure
from tcl_train.report.tables import Table

FIGURES: tuple[Callable[[Table, Measure], Iterator[Drawing]], ...] = (
    by_group,
    over_settings,
    training,
    gradients,
    monitor,
    uniformity_tolerance,
    confusion,
    feature_map,
)
