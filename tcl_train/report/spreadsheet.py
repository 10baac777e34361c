"""report.csv: a row a run and a row an evaluation, with all numbers unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from tcl_train.report.document import Report, about_run, command_of
from tcl_train.report.measures import Measure, measures_in
from tcl_train.report.protocols import protocol_of
from tcl_train.report.run_files import Run
from tcl_train.report.settings import settings_of
from tcl_train.report.tables import data_of


def to_csv(report: Report) -> str:
    """Columns: the settings that name groups of any data set, the measures that any run has."""
    keys = dict.fromkeys(k for s in report.sections for k in s.table.differences.keys)
    measures = measures_in(_contents(report))
    rows = list(_rows(report, [*keys], measures))
    before = ("status", "dataset", "evaluation", "group", *keys, "seed")
    columns = dict.fromkeys(
        [*before, *(m.key for m in measures), *ABOUT, "protocol", "folder", "command"]
    )
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*columns], restval="", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


ABOUT = ("epochs", "precision", "device", "version", "commit")


def _contents(report: Report) -> list[Mapping[str, Any]]:
    runs = report.collection.finished
    return [*(r.result or {} for r in runs), *(e.content for r in runs for e in r.evaluations)]


def _rows(report: Report, keys: list[str], measures: list[Measure]) -> Iterator[dict[str, Any]]:
    for section in report.sections:
        for group in section.table.groups:
            for run in group.runs:
                row = _row(run, keys) | {"group": group.label}
                yield (
                    row
                    | _measured(run.result or {}, measures)
                    | {"status": "finished", **about_run(run)}
                )
                for evaluation in run.evaluations:
                    again = {"status": "evaluated again", "evaluation": evaluation.name}
                    yield row | _measured(evaluation.content, measures) | again
    for run in report.collection.unfinished:
        yield _row(run, keys) | {"status": "unfinished", "epochs": run.epoch}
    for apart in report.collection.apart:
        yield {"status": f"not usable: {apart.reason}", "folder": apart.name}


def _row(run: Run, keys: list[str]) -> dict[str, Any]:
    settings = settings_of(run.config)
    return {
        "dataset": run.config["names"].get("dataset", ""),
        **{key: settings.get(key, "") for key in keys},
        "seed": run.seed,
        "folder": run.name,
        "command": command_of(run),
    }


def _measured(content: Mapping[str, Any], measures: list[Measure]) -> dict[str, Any]:
    return {
        "dataset": data_of(content),
        "protocol": protocol_of(content),
        **{measure.key: measure.of(content) for measure in measures},
    }
