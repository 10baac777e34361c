"""Runs in groups: a table a data set, a group a setting, its seeds side by side.

Accuracies on different data sets are never put together, nor are those measured by different
protocols: another probe, or another number of test images.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcl_train.report.evaluations import what_was_evaluated
from tcl_train.report.measures import Measure, measures_in
from tcl_train.report.protocols import explained, lettered, protocol_of
from tcl_train.report.run_files import Run
from tcl_train.report.settings import (
    NOT_SET,
    NOT_TRAINED,
    Differences,
    Settings,
    find_differences,
    label_of,
    order_of,
    settings_of,
)
from tcl_train.report.statistics import (
    FEWEST_PAIRS,
    Difference,
    Summary,
    holm,
    paired_difference,
    seeds_needed,
    summarise,
    verdict,
)

EACH_WITH_EACH = 5  # groups; of more, each is compared with the best


@dataclass(eq=False)
class Group:
    """Runs that differ in their seeds only. Complete before anything is asked of it.

    values: of the keys that tell groups apart. protocol: a letter; "" where the table has only one.
    """

    label: str
    values: Settings
    protocol: str
    runs: list[Run]
    _by_seed: dict[str, dict[int, float]] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """The label, and the protocol's letter where there are several."""
        return f"{self.label} [{self.protocol}]" if self.protocol else self.label

    @property
    def seeds(self) -> int:
        """How many different ones."""
        return len({run.seed for run in self.runs})

    def by_seed(self, measure: Measure) -> dict[int, float]:
        """seed -> value; of several runs with one seed, their mean, as they are one sample."""
        if measure.key not in self._by_seed:
            found: dict[int, list[float]] = {}
            for run in self.runs:
                value = measure.of(run.result or {})
                if value is not None:
                    found.setdefault(run.seed, []).append(value)
            means = {seed: summarise(values).mean for seed, values in sorted(found.items())}
            self._by_seed[measure.key] = means
        return self._by_seed[measure.key]

    def summary(self, measure: Measure) -> Summary | None:
        values = self.by_seed(measure)
        return summarise(list(values.values())) if values else None


@dataclass(frozen=True)
class Comparison:
    """Two groups over their shared seeds; `seeds`: how many would tell, see seeds_needed."""

    first: Group
    second: Group
    difference: Difference
    adjusted_p: float | None
    verdict: str
    seeds: int | None


@dataclass
class EvaluatedAgain:
    """The same evaluation by `tcl-eval` of the runs of a group."""

    group: str
    trained_on: str
    what: str
    protocol: str
    by_seed: Mapping[int, Sequence[Mapping[str, Any]]]

    def summary(self, measure: Measure) -> Summary | None:
        """Over seeds, of which each gives the mean of its evaluations."""
        values = []
        for contents in self.by_seed.values():
            found = [v for v in map(measure.of, contents) if v is not None]
            if found:
                values.append(summarise(found).mean)
        return summarise(values) if values else None


@dataclass
class Table:
    """All that was measured on one data set.

    protocols: letter -> how it was measured; the letter is "" where there is one only.
    """

    title: str
    about: str
    groups: list[Group]
    differences: Differences
    protocols: dict[str, str]
    again: list[EvaluatedAgain] = field(default_factory=list)

    @property
    def measured(self) -> list[tuple[str, str]]:
        """See :func:`explained`."""
        return explained({protocol: letter for letter, protocol in self.protocols.items()})

    @property
    def again_letters(self) -> dict[str, str]:
        """protocol -> letter of the evaluations."""
        return lettered([row.protocol for row in self.again], "a") if self.again else {}

    @property
    def again_measured(self) -> list[tuple[str, str]]:
        """See :func:`explained`."""
        return explained(self.again_letters)

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    def measures(self) -> list[Measure]:
        """Those that any run has."""
        return measures_in([run.result or {} for run in self.runs])

    def again_measures(self) -> list[Measure]:
        return measures_in([c for row in self.again for many in row.by_seed.values() for c in many])

    def ranked(self, measure: Measure) -> list[Group]:
        """The groups that have the measure, the best mean first."""
        scored = [(measure.score(s.mean), g) for g in self.groups if (s := g.summary(measure))]
        return [group for _, group in sorted(scored, key=lambda pair: -pair[0])]

    def leading(self, measure: Measure, most: int) -> list[Group]:
        """The best groups, in the table's order."""
        best = {id(group) for group in self.ranked(measure)[:most]}
        return [group for group in self.groups if id(group) in best]

    def compare(self, measure: Measure) -> list[Comparison]:
        """Pairs of groups that were measured alike: each with each, or, of many, with the best."""
        pairs = list(self._pairs(measure))
        differences = [paired_difference(*(g.by_seed(measure) for g in pair)) for pair in pairs]
        tested = [i for i, d in enumerate(differences) if d.p is not None]
        p_values = [p for i in tested if (p := differences[i].p) is not None]
        adjusted = dict(zip(tested, holm(p_values), strict=True))
        higher = measure.higher_wins is not False
        return [
            Comparison(
                *pair,
                difference,
                adjusted.get(i),
                verdict(difference, adjusted.get(i), higher_wins=higher),
                seeds_needed(difference),
            )
            for i, (pair, difference) in enumerate(zip(pairs, differences, strict=True))
        ]

    def _pairs(self, measure: Measure) -> Iterator[tuple[Group, Group]]:
        for protocol in sorted({group.protocol for group in self.groups}):
            alike = [g for g in self.groups if g.protocol == protocol and g.by_seed(measure)]
            if len(alike) <= EACH_WITH_EACH:
                yield from itertools.combinations(alike, 2)
            else:
                best = self._to_compare_with(alike, measure)
                yield from ((best, group) for group in alike if group is not best)

    def _to_compare_with(self, alike: Sequence[Group], measure: Measure) -> Group:
        """The best of these; one that has too few seeds to tell anything only if all have."""
        ranked = [group for group in self.ranked(measure) if group in alike]
        enough = [group for group in ranked if len(group.by_seed(measure)) >= FEWEST_PAIRS]
        return (enough or ranked)[0]


def tables_of(runs: Sequence[Run]) -> list[Table]:
    """The finished runs in tables, ordered by data set."""
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(data_of(run.result or {}), []).append(run)
    tables = {title: _table(title, by_data[title]) for title in sorted(by_data)}
    for table in list(tables.values()):
        _put_evaluations(table, tables)
    return [tables[title] for title in sorted(tables)]


def data_of(result: Mapping[str, Any]) -> str:
    """The name of a data set, which for the users' own images is their folder's."""
    name, root = str(result["dataset"]), result.get("dataset_root")
    if name == "image_folder" and root:
        return f"{name} {Path(str(root)).name} ({root})"
    return name


def _table(title: str, runs: Sequence[Run]) -> Table:
    settings = [_settings(run) for run in runs]
    typed = Counter(w.partition("=")[0].lstrip("+~") for run in runs for w in run.overrides)
    differences = find_differences(settings, typed)
    found: dict[tuple[str, ...], Group] = {}
    for run, own in zip(runs, settings, strict=True):
        values = {key: own.get(key, NOT_SET) for key in differences.keys}
        protocol = protocol_of(run.result or {})
        new = Group(label_of(values), values, protocol, [])
        found.setdefault((*values.values(), protocol), new).runs.append(run)
    groups = sorted(found.values(), key=lambda g: (*map(order_of, g.values.values()), g.protocol))
    letters = lettered([group.protocol for group in groups])
    for group in groups:
        group.protocol = letters[group.protocol]
        group.runs.sort(key=lambda run: (run.seed, run.name))
    return Table(title, _about(runs), groups, differences, {v: k for k, v in letters.items()})


def _settings(run: Run) -> dict[str, str]:
    """With the precision that `auto` came to; without those of training for an encoder from
    elsewhere, which `tcl-eval` has evaluated."""
    settings = settings_of(run.config)
    if run.from_elsewhere:
        settings = {k: v for k, v in settings.items() if k.partition(".")[0] in OF_EVALUATION}
        settings |= dict.fromkeys(("loss", "method"), NOT_TRAINED)
    precision = (run.result or {}).get("precision")
    return settings | ({"precision": str(precision)} if precision else {})


OF_EVALUATION = ("dataset", "encoder", "probe", "mirror_features", "knn")


def _about(runs: Sequence[Run]) -> str:
    """How large the data set is, where all runs agree."""
    keys = {
        "num_classes": "classes",
        "num_train": "training images",
        "num_validation": "validation images",
        "num_test": "test images",
    }
    parts = []
    for key, words in keys.items():
        values = [(run.result or {}).get(key) for run in runs]
        value = values[0]
        if isinstance(value, int) and value and values.count(value) == len(values):
            parts.append(f"{value:,} {words}")
    return ", ".join(parts)


def _put_evaluations(table: Table, tables: dict[str, Table]) -> None:
    """Each evaluation of this table's runs goes to the table of the data set it was made on."""
    rows: dict[tuple[str, ...], EvaluatedAgain] = {}
    for group in table.groups:
        for run in group.runs:
            for evaluation in run.evaluations:
                where = data_of(evaluation.content)
                what = what_was_evaluated(evaluation, run)
                protocol = protocol_of(evaluation.content)
                key = (where, group.label, group.protocol, what, protocol)
                if key not in rows:
                    rows[key] = EvaluatedAgain(group.label, table.title, what, protocol, {})
                    there = tables.setdefault(
                        where, Table(where, "", [], Differences((), (), {}), {})
                    )
                    there.again.append(rows[key])
                by_seed = rows[key].by_seed
                assert isinstance(by_seed, dict)
                by_seed.setdefault(run.seed, []).append(evaluation.content)
