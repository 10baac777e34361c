"""report.html: one page that needs no other file and no network."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tcl_train.report import document
from tcl_train.report.document import Report, Section
from tcl_train.report.settings import NOT_SET
from tcl_train.report.tables import EACH_WITH_EACH, Group

MADE_BY = "tcl-report"  # by which a page is known again
STRIP = 120  # pixels: width of the points beside a group's mean
OPEN_ROWS = 24  # tables of more rows are folded when the page opens


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it. file: its path from the page's folder; width: in pixels of the
    page."""

    file: str
    title: str
    caption: str
    png: bytes
    width: int

    @property
    def source(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def to_html(
    report: Report, pictures: Mapping[str, Sequence[Picture]], *, reload_every: float | None
) -> str:
    """pictures: by the table's title. reload_every: seconds after which the page loads itself
    again; None: never."""
    return _template().render(
        report=report,
        pictures=pictures,
        reload_every=reload_every,
        made_by=MADE_BY,
        each_with_each=EACH_WITH_EACH,
        open_rows=OPEN_ROWS,
        text=document,
        not_set=NOT_SET,
        strip=strip,
        strip_width=STRIP,
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2")


@dataclass(frozen=True)
class Strip:
    """Where a group's points, its mean and its spread stand, in pixels from the left."""

    points: list[str]
    mean: str
    low: str
    high: str


def strip(section: Section, group: Group) -> Strip | None:
    """The seeds of a group on the scale of all of the table's."""
    measure = section.measure
    summary = group.summary(measure) if measure else None
    if measure is None or summary is None:
        return None
    low, high = section.range
    scale = (STRIP - 12) / (high - low) if high > low else 0.0

    def place(value: float) -> str:
        return f"{6 + (min(max(value, low), high) - low) * scale:.1f}"

    spread = summary.sd or 0.0
    points = [place(value) for value in group.by_seed(measure).values()]
    return Strip(
        points, place(summary.mean), place(summary.mean - spread), place(summary.mean + spread)
    )
