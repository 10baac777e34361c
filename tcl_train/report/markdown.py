"""report.md: the tables and comparisons, with links to the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tcl_train.report.document import (
    BEST_IS_CHOSEN,
    HOW_COMPARED,
    NOTHING_TO_COMPARE,
    Report,
    Section,
    counted,
    interval_text,
    mean_text,
    progress_of,
    seeds_text,
)
from tcl_train.report.measures import Measure
from tcl_train.report.settings import NOT_SET
from tcl_train.report.statistics import Summary
from tcl_train.report.tables import EACH_WITH_EACH


def to_markdown(report: Report, figures: Mapping[str, Sequence[tuple[str, str, str]]]) -> str:
    """figures: by the table's title, the file, title and caption of each."""
    lines = ["# Report", "", f"{report.in_short}. Made {report.made:%Y-%m-%d %H:%M} by tcl-report."]
    for section in report.sections:
        lines += ["", f"## {escape(section.table.title)}", ""]
        lines += _section(section)
        for file, title, caption in figures.get(section.table.title, ()):
            lines += [
                "",
                f"![{escape(title)}]({file})",
                "",
                f"*{escape(title)}.* {escape(caption)}",
            ]
    if report.common:
        lines += ["", "## Common to all runs", "", _settings(report.common)]
    if report.collection.unfinished:
        rows = [[run.name, progress_of(run)] for run in report.collection.unfinished]
        lines += ["", "## Unfinished", "", *_table(["run", "so far"], rows)]
    for title, found in (
        ("Not usable", report.collection.apart),
        ("Used, with gaps", report.collection.notes),
    ):
        if found:
            rows = [[apart.name, apart.reason] for apart in found]
            lines += ["", f"## {title}", "", *_table(["what", "why"], rows)]
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    table = section.table
    if table.about:
        yield from (f"{table.about}.", "")
    if table.groups:
        yield from _groups(section)
    if table.differences.following:
        following = ", ".join(table.differences.following)
        yield from ("", escape(f"These differ as well, together with the above: {following}."))
    yield from _explained(table.measured)
    if section.comparisons:
        yield from ("", "### Comparison", "", *_comparisons(section))
    if table.again:
        yield from ("", "### Evaluated again by tcl-eval", "", *_again(section))
    if section.common:
        yield from ("", "### Common to its runs", "", _settings(section.common))


def _groups(section: Section) -> Iterator[str]:
    table, keys = section.table, section.table.differences.keys
    several = len(table.protocols) > 1
    head = [*(keys or ["runs"]), *(["protocol"] if several else []), "n"]
    rows = []
    for group in table.groups:
        best = group in section.best
        shown: list[str] = [*(map(_setting, group.values.values()) if keys else [group.label])]
        shown += [group.protocol] if several else []
        seeds = group.seeds
        shown.append(
            str(seeds) if seeds == len(group.runs) else f"{seeds} ({len(group.runs)} runs)"
        )
        row = [escape(text) for text in shown]
        for measure in section.measures:
            text = _number(measure, group.summary(measure), seeds)
            row.append(f"**{text}**" if best and measure is section.measure else text)
        rows.append(row)
    yield from _table([*head, *_heads(section.measures)], rows, escaped=True)
    yield ""
    yield "Mean ± standard deviation (n − 1) over n seeds."


def _setting(value: str) -> str:
    return "–" if value == NOT_SET else value


def _number(measure: Measure, summary: Summary | None, seeds: int) -> str:
    text = mean_text(measure, summary)
    return f"{text} (n = {summary.count})" if summary and summary.count != seeds else text


def _heads(measures: Iterable[Measure]) -> list[str]:
    return [measure.axis for measure in measures]


def _comparisons(section: Section) -> Iterator[str]:
    measure = section.measure
    assert measure is not None
    if not section.comparable:
        yield NOTHING_TO_COMPARE
        return
    head = ["A", "B", "shared seeds", f"A − B, {measure.axis}", "95 % interval", "verdict"]
    rows = [
        [
            c.first.title,
            c.second.title,
            str(c.difference.count),
            measure.text(c.difference.mean, signed=True),
            interval_text(measure, c),
            c.verdict,
            seeds_text(c),
        ]
        for c in section.comparisons
    ]
    yield from _table([*head, "seeds that would tell"], rows)
    yield from ("", HOW_COMPARED)
    if len(section.table.groups) > EACH_WITH_EACH:
        yield BEST_IS_CHOSEN


def _again(section: Section) -> Iterator[str]:
    measures = section.table.again_measures()
    letters = section.table.again_letters
    rows = []
    for again in section.table.again:
        row = [again.group, again.trained_on, again.what, str(len(again.by_seed))]
        row += [mean_text(measure, again.summary(measure)) for measure in measures]
        rows.append([*row, letters[again.protocol]])
    head = ["group", "trained on", "evaluation", "n", *_heads(measures), "measured"]
    yield from _table(head, rows)
    yield from _explained(section.table.again_measured)


def _explained(protocols: Iterable[tuple[str, str]]) -> Iterator[str]:
    for letter, protocol in protocols:
        name = f"Measured {letter}" if letter else "Measured"
        yield from ("", f"{name}: {escape(protocol)}.")


def _settings(settings: Mapping[str, str]) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    return escape(f"{counted(len(settings), 'setting')}: {shown}.")


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, escaped: bool = False
) -> Iterator[str]:
    yield _line(map(escape, head))
    yield _line("---" for _ in head)
    for row in rows:
        yield _line(row if escaped else map(escape, row))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """A text in which Markdown finds no table, link, emphasis or HTML."""
    for sign in "\\`*[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
