"""`profile=true`: a trace and a summary of some steps, and a run that is the same for it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.engine.profile import PHASES
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

# Fifteen steps of the few digits: enough to skip, to warm up and to record.
WORDS = ("batch_size=32", "epochs=3", "log_every=20")

pytestmark = pytest.mark.usefixtures("on_few_digits")


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """As the commands have it."""
    caplog.set_level("INFO", "tcl_train")


def test_it_writes_a_trace_and_says_where_the_time_goes_and_changes_no_weight(
    tmp_path: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    profiled, plain = RunDir(tmp_path / "profiled"), RunDir(tmp_path / "plain")
    train_tiny(profiled, *WORDS, "profile=true")
    train_tiny(plain, *WORDS)
    trace = json.loads((profiled.path / "profile" / "steps.pt.trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    for phase in PHASES:
        assert names.count(phase) >= 5, phase  # data once more, at the end of an epoch
    log = profiled.log.read_text()
    for word in (*PHASES, "all of it", "aten::convolution_backward", "ui.perfetto.dev"):
        assert word in log
    assert not (plain.path / "profile").exists()
    weights = [checkpoint.load(run.checkpoints / "last.pt")["method"] for run in (profiled, plain)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_classifier_has_the_same_phases(
    tmp_path: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    run_dir = RunDir(tmp_path / "run")
    train_tiny(run_dir, *WORDS, "loss=ce", "profile=true")
    summary = run_dir.log.read_text()
    assert all(f"\n  {phase} " in summary for phase in PHASES)


def test_its_library_says_nothing_of_itself() -> None:
    """On a machine without a GPU it would say `ERROR`, to users who asked for none."""
    code = """
import torch
from tcl_train.engine.profile import profiler
with profiler():
    torch.ones(3) + 1
"""
    environment = {key: value for key, value in os.environ.items() if key != "KINETO_LOG_LEVEL"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "ERROR" not in ran.stderr
    assert "profiler_start" not in ran.stderr


@pytest.mark.parametrize("failure", ["a full disk", "a file in the way"])
def test_a_trace_that_cannot_be_written_is_said_and_nothing_else_is_lost(
    failure: str,
    tmp_path: Path,
    train_tiny: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export(self: Any, path: str) -> None:
        """As torch does, which moves a file that it could not write."""
        Path(f"{path}.tmp").write_text("half of it")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    run_dir = RunDir(tmp_path / "run")
    if failure == "a full disk":
        monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    else:
        run_dir.path.mkdir()
        (run_dir.path / "profile").touch()
    train_tiny(run_dir, *WORDS, "profile=true")
    assert run_dir.finished
    assert "steps.pt.trace.json: the profile cannot be written" in run_dir.log.read_text()
    assert not list(run_dir.path.glob("profile/*"))


def test_a_run_of_too_few_steps_says_so(
    tmp_path: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    run_dir = RunDir(tmp_path / "run")
    train_tiny(run_dir, "batch_size=32", "epochs=1", "profile=true")
    assert run_dir.finished
    assert "no profile: it needs 8 steps" in run_dir.log.read_text()


def test_a_run_that_goes_on_can_be_profiled(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    signalled: Callable[..., Any],
) -> None:
    with signalled(1):
        command(*tiny_words("batch_size=32", "epochs=4", "hydra.run.dir=run"))
    assert command("resume=run", "profile=true").status == 0
    assert Path("run/profile/steps.pt.trace.json").is_file()
