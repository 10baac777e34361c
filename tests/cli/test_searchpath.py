"""Configs of the user's, from hydra.searchpath=[DIR]: for a run, and for what comes after it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tcl_train.cli.main import main_eval
from tcl_train.run.directory import RunDir

MINE = "hydra.searchpath=[mine]"


@pytest.fixture
def mine(here: Path) -> Path:
    """A folder of configs beside the run: a loss, and a data set's probe that is quick."""
    (here / "mine" / "loss").mkdir(parents=True)
    (here / "mine" / "loss" / "soft_tcl.yaml").write_text(
        "# @package _global_\n"
        "tau: 0.25\n"
        "loss:\n  _target_: tcl_train.losses.SupCon\n  tau: ${tau}\n  form: in\n"
    )
    return here / "mine"


@pytest.mark.usefixtures("mine", "on_few_digits")
def test_a_run_with_my_config_is_resumed_and_evaluated_from_elsewhere(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    signalled: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = tiny_words("epochs=2", "batch_size=32", "loss=soft_tcl", MINE)
    directory = tmp_path / "run"
    with signalled(3):
        assert command(*words, f"hydra.run.dir={directory}").status == 130
    stored = RunDir(directory).read_config()
    assert stored.searchpath == [f"file://{tmp_path / 'here' / 'mine'}"]
    assert OmegaConf.select(stored, "loss.tau") == 0.25
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = command(f"resume={directory}", "log_every=2")
    assert (outcome.status, outcome.err) == (0, "")
    outcome = command(f"run={directory}", "probe.max_iter=2", main=main_eval)
    assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.slow
@pytest.mark.usefixtures("mine")
def test_a_sweep_finds_my_config_too(
    command: Callable[..., Any], tiny_words: Callable[..., list[str]]
) -> None:
    words = tiny_words("loss=glob(soft*)", "tau=0.2,0.3", MINE, "hydra.sweep.dir=sweep")
    assert command("-m", *words).status == 0
    with Path("sweep/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["loss"], row["tau"], row["status"]) for row in rows] == [
        ("soft_tcl", "0.2", "finished"),
        ("soft_tcl", "0.3", "finished"),
    ]


@pytest.mark.usefixtures("mine")
def test_a_wrong_choice_is_answered_with_mine_among_the_choices(
    refused: Callable[..., str],
) -> None:
    line = refused("loss=soft_tc", MINE)
    assert "did you mean soft_tcl?" in line
    assert "supcon" in line


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.searchpath=[nowhere]", "there is no folder"),
        ("hydra.searchpath=[file://nowhere]", "there is no folder"),
        ("hydra.searchpath=mine", "give a list of folders"),
    ],
)
def test_a_folder_that_is_not_there_is_refused_by_name(
    refused: Callable[..., str], word: str, said: str
) -> None:
    line = refused(word)
    assert "hydra.searchpath" in line
    assert said in line
