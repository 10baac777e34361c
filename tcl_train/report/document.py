"""All that a report says, before it is written as a page, as Markdown or as CSV."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tcl_train.report.collect import Collection
from tcl_train.report.measures import Measure
from tcl_train.report.run_files import Run
from tcl_train.report.settings import Settings
from tcl_train.report.statistics import CANNOT_TELL, Summary
from tcl_train.report.tables import Comparison, Group, Table, tables_of

SHOWN_COMPARISONS = 200  # of a table; the closest to a verdict first


@dataclass
class Section:
    """A data set: its table, which measures it shows, and its comparisons.

    common: settings that all its runs share, though not those of other data sets. measure: by which
    the groups are ranked and compared; None where no run has it or another.
    """

    table: Table
    measures: list[Measure]
    measure: Measure | None
    comparisons: list[Comparison]
    common: Settings

    @property
    def comparable(self) -> bool:
        """Whether any two groups share two seeds, so that there is an interval to show."""
        return any(comparison.difference.count > 1 for comparison in self.comparisons)

    @functools.cached_property
    def best(self) -> list[Group]:
        """The group with the best mean of each protocol, where there are several to choose from."""
        if self.measure is None or len(self.table.groups) < 2:
            return []
        found: dict[str, Group] = {}
        for group in self.table.ranked(self.measure):
            found.setdefault(group.protocol, group)
        return list(found.values())

    @functools.cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of the measure among all seeds."""
        assert self.measure is not None
        values = [v for group in self.table.groups for v in group.by_seed(self.measure).values()]
        return min(values), max(values)


@dataclass
class Report:
    """common: settings of every finished run."""

    collection: Collection
    sections: list[Section]
    common: Settings
    made: datetime

    @property
    def in_short(self) -> str:
        """How much there is."""
        groups = sum(len(section.table.groups) for section in self.sections)
        parts = [
            counted(len(self.collection.finished), "finished run"),
            counted(groups, "group"),
            counted(len(self.sections), "data set"),
        ]
        if self.collection.unfinished:
            parts.append(f"{len(self.collection.unfinished):,} unfinished")
        if self.collection.apart:
            parts.append(f"{len(self.collection.apart):,} not usable")
        return " · ".join(parts)


def compose_report(collection: Collection, measure: Measure) -> Report:
    """Groups, compares and sums up."""
    tables = tables_of(collection.finished)
    with_runs = [table.differences.common for table in tables if table.groups]
    everywhere = {
        key: value
        for key, value in (with_runs[0] if with_runs else {}).items()
        if all(common.get(key) == value for common in with_runs)
    }
    sections = [_section(table, measure, everywhere) for table in tables]
    return Report(collection, sections, everywhere, datetime.now().astimezone())


def _section(table: Table, wanted: Measure, everywhere: Settings) -> Section:
    measures = table.measures()
    measure = wanted if wanted in measures else None
    comparisons = table.compare(measure) if measure else []
    comparisons.sort(key=_by_certainty)
    common = {k: v for k, v in table.differences.common.items() if k not in everywhere}
    return Section(table, measures, measure, comparisons[:SHOWN_COMPARISONS], common)


def _by_certainty(comparison: Comparison) -> tuple[bool, float]:
    p = comparison.difference.p
    return comparison.verdict.startswith(CANNOT_TELL), 2.0 if p is None else p


# ------------------------------------------------------------------ texts


def counted(count: int, thing: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def mean_text(measure: Measure, summary: Summary | None) -> str:
    """`91.39 ± 0.42`; without a spread where there is one value."""
    if summary is None or summary.sd is None:
        return measure.text(summary.mean if summary else None)
    return f"{measure.text(summary.mean)} ± {measure.text(summary.sd)}"


def interval_text(measure: Measure, comparison: Comparison) -> str:
    low, high = comparison.difference.low, comparison.difference.high
    if low is None or high is None:
        return "–"
    return f"{measure.text(low, signed=True)} to {measure.text(high, signed=True)}"


def seeds_text(comparison: Comparison) -> str:
    """How many seeds would tell two groups apart that cannot be told apart yet."""
    if not comparison.verdict.startswith(CANNOT_TELL) or comparison.difference.sd is None:
        return "–"
    return "more than 1,000" if comparison.seeds is None else f"about {comparison.seeds:,}"


HOW_COMPARED = (
    "Differences are taken seed by seed, between runs with the same seed (paired t test). The 95 % "
    "interval is of each pair alone; a verdict asks for p < 0.05 after Holm's correction for all "
    "comparisons of the table, and for 3 shared seeds. 'Seeds that would tell' are those that find "
    "the difference with a chance of 80 % (for one comparison, without correction), if the true "
    "difference and its spread are as seen; from few seeds, that is a rough guess."
)
NOTHING_TO_COMPARE = (
    "Cannot tell: groups that were measured alike share too few seeds. Train each with the same "
    "seeds, at least three: seed=1,2,3."
)
BEST_IS_CHOSEN = (
    "Of so many groups, each is compared with the one that has the best mean (over at least three "
    "seeds, where there is such); being chosen for it, that one looks better than it is."
)


def command_of(run: Run) -> str:
    """What was typed for a run, ready to paste into a shell."""
    words = list(run.overrides)
    folders = run.config.get("searchpath")
    if isinstance(folders, Sequence) and not isinstance(folders, str) and folders:
        words.insert(0, f"hydra.searchpath=[{','.join(map(str, folders))}]")
    return shlex.join(["tcl-eval" if run.from_elsewhere else "tcl-train", *words])


def resume_of(run: Run) -> str:
    return shlex.join(["tcl-train", f"resume={run.name}"])


def progress_of(run: Run) -> str:
    """How far an unfinished run is."""
    if not run.step:
        return "no step yet"
    return f"epoch {run.epoch} of {run.config.get('epochs', 'unknown')}, step {run.step:,}"


def about_run(run: Run) -> Mapping[str, str]:
    """What is told about each run besides settings and measures."""
    result = run.result or {}
    known = {
        "epochs": result.get("epochs"),
        "precision": result.get("precision"),
        "device": result.get("device"),
        "version": result.get("tcl_train_version"),
        "commit": (result.get("git_commit") or "")[:7] or None,
    }
    return {key: "–" if value is None else str(value) for key, value in known.items()}
