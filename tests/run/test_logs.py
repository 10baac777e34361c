"""Messages of a run: on the terminal and in its train.log."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from tcl_train.errors import Interrupted
from tcl_train.run.directory import RunDir
from tcl_train.run.logs import held_messages, log_to_file, log_to_terminal, progress_bar


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_messages_go_to_the_terminal_once_and_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_terminal()
    log_to_terminal()  # a second command in one process
    logging.getLogger("tcl_train.somewhere").info("epoch %d", 3)
    assert capsys.readouterr() == ("epoch 3\n", "")


def test_messages_go_to_the_log_with_the_time(run_dir: RunDir) -> None:
    logging.getLogger("tcl_train").setLevel(logging.INFO)
    with log_to_file(run_dir):
        logging.getLogger("tcl_train.somewhere").info("epoch %d, ä", 3)
    logging.getLogger("tcl_train.somewhere").info("after it")
    (line,) = run_dir.log.read_text(encoding="utf-8").splitlines()
    date, time, message = line.split(" ", 2)
    assert message == "epoch 3, ä"
    assert date.count("-") == 2
    assert time.count(":") == 2


def test_the_log_of_a_resumed_run_is_added_to(run_dir: RunDir) -> None:
    run_dir.log.write_text("before\n")
    with log_to_file(run_dir):
        logging.getLogger("tcl_train").error("after")
    assert [line.split()[-1] for line in run_dir.log.read_text().splitlines()] == [
        "before",
        "after",
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_is_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    stream = Screen() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=10, done=3) as bar:
        bar.update()
        shown = stream.getvalue()
    assert bool(shown) == terminal
    assert bar.n == (4 if terminal else 3)


def test_messages_from_before_there_is_a_directory_are_not_lost(run_dir: RunDir) -> None:
    logging.getLogger("tcl_train").setLevel(logging.INFO)
    with held_messages() as held:
        logging.getLogger("tcl_train").info("before")
        with log_to_file(run_dir, held):
            logging.getLogger("tcl_train").info("after")
    messages = [line.split()[-1] for line in run_dir.log.read_text().splitlines()]
    assert messages == ["before", "after"]


def test_a_traceback_goes_to_the_log_but_not_that_of_a_stop(run_dir: RunDir) -> None:
    with pytest.raises(Interrupted), log_to_file(run_dir):
        raise Interrupted(2)
    assert run_dir.log.read_text() == ""
    with pytest.raises(ZeroDivisionError), log_to_file(run_dir):
        _ = 1 / 0
    assert "ZeroDivisionError: division by zero" in run_dir.log.read_text()
