"""`tcl-report` as it is typed."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcl_train.cli.main import main_report
from tcl_train.cli.report import KEYS, MEASURES, NEEDED
from tcl_train.report.measures import RANKED

HAS_EXTRA = all(map(importlib.util.find_spec, NEEDED))
pytestmark = pytest.mark.skipif(not HAS_EXTRA, reason="tcl-train[report] is not installed")


EARLIER = Path(__file__).parents[1] / "earlier_runs"  # a finished run, and an interrupted one


@pytest.fixture
def report(command: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *words: command(*words, main=main_report)


@pytest.fixture
def refused_report(refused: Callable[..., str]) -> Callable[..., str]:
    return lambda *words: refused(*words, main=main_report)


def test_a_report_is_written_where_it_says(report, here):
    outcome = report(str(EARLIER))
    assert (outcome.status, outcome.err) == (0, "")
    said = "1 finished run · 1 group · 1 data set · 1 unfinished, in report/report.html"
    assert outcome.last_line == said
    names = {path.name for path in (here / "report").iterdir()}
    assert names == {"report.html", "report.md", "report.csv", "figures"}
    # and again, over the earlier one
    assert report(str(EARLIER), "measure=knn_top1").status == 0


def test_help_is_given_for_nothing_and_for_help(report):
    for words in ((), ("--help",), ("x", "-h")):
        outcome = report(*words)
        assert outcome.status == 0
        assert all(f"{key}=" in outcome.out for key in KEYS)


def test_the_measures_are_those_of_the_report():
    assert MEASURES == RANKED


def test_no_runs(refused_report, tmp_path):
    (tmp_path / "runs").mkdir()
    assert refused_report(str(tmp_path / "runs")).endswith("runs: contains no runs")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere: no such folder; give one that holds runs"),
        (("out=x",), "no folder is given"),
        ((".", "oot=x"), "oot=x: no such key; did you mean out? there are"),
        ((".", "pdf=yes"), "pdf=yes: must be true or false"),
        ((".", "every=0"), "every=0: must be a finite number > 0"),
        ((".", "every=5"), "every=5: goes with watch=true; give it, too"),
        ((".", "measure=wall_seconds"), "measure=wall_seconds: must be one of top1"),
        ((".", "--watch"), "--watch: no such flag"),
    ],
)
def test_what_is_typed_wrongly(refused_report, words, said):
    assert said in refused_report(*words)


def test_a_measure_that_no_run_has(refused_report):
    message = refused_report(str(EARLIER), "measure=val_top1")
    assert message == (
        "measure=val_top1: no finished run has it; they have "
        "top1, top5, knn_top1, random_encoder_top1"
    )


def test_out_in_a_run_is_refused(refused_report, tmp_path):
    run = shutil.copytree(EARLIER / "9d5e053-whole", tmp_path / "run")
    assert "is in the directory of a run" in refused_report(str(run), f"out={run}/report")


def test_out_that_cannot_be_written(refused_report, tmp_path):
    (tmp_path / "file").touch()
    message = refused_report(str(EARLIER), f"out={tmp_path}/file/deep")
    assert "file/deep: cannot be written (Not a directory); give another folder" in message


@pytest.mark.parametrize(
    ("module", "package"),
    [("matplotlib", "matplotlib"), ("jinja2", "jinja2"), ("sklearn", "scikit-learn")],
)
def test_a_missing_extra(refused_report, monkeypatch, module, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    assert refused_report(".") == f"{package} is not installed; pip install 'tcl-train[report]'"


def test_watching_writes_again_what_changes_and_stops_in_good_order(
    report, tmp_path, monkeypatch, here
):
    runs = tmp_path / "runs"
    runs.mkdir()
    looks = iter([
        lambda: shutil.copytree(EARLIER / "9d5e053-part", runs / "a"),
        lambda: None,
        lambda: shutil.copytree(EARLIER / "9d5e053-whole", runs / "b"),
        lambda: signal.raise_signal(signal.SIGINT),
    ])  # fmt: skip
    seen = []

    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        page = here / "report" / "report.html"
        seen.append(page.read_text() if page.exists() else "")
        next(looks)()

    monkeypatch.setattr(time, "sleep", sleep)
    outcome = report(str(runs), "watch=true", "every=0.5")
    assert outcome.status == 130
    assert outcome.err == ("tcl-report: stopped watching; the report is in report/report.html\n")
    assert "no runs yet" in outcome.out
    assert seen[0] == ""
    assert "0 finished runs" in seen[1]
    assert seen[1] == seen[2]
    assert "1 finished run" in seen[3]
    assert all("location.reload" in page for page in seen[1:])
    assert "location.reload" not in (here / "report" / "report.html").read_text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_watching_nothing(report, tmp_path, monkeypatch, signum):
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signum))
    (tmp_path / "runs").mkdir()
    outcome = report(str(tmp_path / "runs"), "watch=true")
    assert (outcome.status, outcome.err) == (
        128 + signum,
        "tcl-report: stopped watching; there were no runs to report\n",
    )
    assert Path("report").exists() is False
