"""Searches by Optuna: by validation accuracy, never by that on the test split."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcl_train.cli import sweep

SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweep.dir=sweep")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tau=interval(0.05,0.5)",), "validation=0.1"),
        (("validation=0.1",), "nothing is searched"),
        (("validation=0.1", "tau=tag(log, interval(0,1))"), "tau=tag(log, interval(0,1)): "),
        (("validation=0.1", "tau=0.1,0.2", "hydra.sweeper.n_trials=0"), "a whole number >= 1"),
        (("validation=0.1", "tua=0.1,0.2"), "did you mean tau?"),
    ],
)
def test_a_search_that_cannot_be_carried_out_is_refused(
    words: tuple[str, ...], said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(*SEARCH, *words)


def test_without_optuna_the_line_says_how_to_install_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = refused(*SEARCH, "validation=0.1", "tau=0.1,0.2")
    assert "pip install 'tcl-train[optuna]'" in line


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the jobs were given, in place of jobs: the best validation accuracy is at tau 0.3, the
    best test accuracy elsewhere."""
    started: list[dict[str, str]] = []

    def run_job(words: list[str], job_dir: Path, sweep_dir: Path, **_: Any) -> int:
        given = dict(word.split("=") for word in words)
        started.append(given)
        if given.get("seed") == "2":
            return 1
        tau = float(given["tau"])
        job_dir.mkdir(parents=True)
        result = {"val_top1": 100 - 100 * abs(tau - 0.3), "top1": 100 * tau}
        (job_dir / "result.json").write_text(json.dumps(result))
        return 0

    monkeypatch.setattr(sweep, "run_job", run_job)
    return started


def test_it_finds_the_best_by_validation_accuracy(
    command: Callable[..., Any], jobs: list[dict[str, str]]
) -> None:
    words = (*SEARCH, "validation=0.1", "tau=interval(0.01,1.0)", "epochs=3")
    outcome = command(*words, "hydra.sweeper.n_trials=30")
    assert (outcome.status, outcome.err) == (0, "")
    assert len(jobs) == 30
    assert all(job["epochs"] == "3" and job["validation"] == "0.1" for job in jobs)
    assert "best of 30: tau=0." in outcome.last_line
    best = float(outcome.last_line.split("tau=")[1].split()[0])
    assert best == pytest.approx(0.3, abs=0.05)
    before = [job["tau"] for job in jobs]
    assert command(*words, "hydra.sweeper.n_trials=32").status == 0  # goes on
    assert len(jobs) == 32
    assert [job["tau"] for job in jobs[:30]] == before


def test_a_job_that_fails_does_not_end_the_search(
    command: Callable[..., Any], jobs: list[dict[str, str]]
) -> None:
    words = ("validation=0.1", "tau=interval(0.1,1.0)", "seed=1,2")
    outcome = command(*SEARCH, *words, "hydra.sweeper.n_trials=8")
    assert len(jobs) == 8
    assert outcome.status == 1
    assert "seed=1" in outcome.last_line


@pytest.mark.slow
def test_a_real_search(command: Callable[..., Any], tiny_words: Callable[..., list[str]]) -> None:
    words = tiny_words("validation=0.2", "k1=tag(log, interval(10, 50000))", "k2=1,2")
    outcome = command(*SEARCH, *words, "hydra.sweeper.n_trials=2")
    assert outcome.status == 0, outcome.err
    with Path("sweep/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished"] * 2
    assert all(10 <= float(row["k1"]) <= 50000 and float(row["val_top1"]) > 0 for row in rows)
