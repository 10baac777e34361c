"""Completion of choices and keys by a shell's tab key."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_the_lines_that_turn_completion_on_and_off(
    command: Callable[..., Any], shell: str
) -> None:
    for action in ("install", "uninstall"):
        outcome = command("--shell-completion", f"{action}={shell}")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.strip()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tcl-train loss=sup", ["loss=supcon", "loss=supcon_in"]),
        ("tcl-train opt", ["optimizer.", "optimizer="]),
        ("tcl-train batch", ["batch_size="]),
        ("tcl-train loss=supcon lo", ["log_every=", "loss.", "loss="]),
        ("tcl-train dataset=nonsense ba", []),
    ],
)
def test_a_shell_gets_what_may_follow(
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    expected: list[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    outcome = command("-sc", "query=bash")
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(outcome.out.split()) == sorted(expected)


@pytest.mark.parametrize("words", [[], ["install=cmd"], ["do=bash"], ["install"]])
def test_another_shell_or_action_is_refused_with_the_list(
    refused: Callable[..., str], words: list[str]
) -> None:
    assert "one of bash, fish, zsh" in refused("-sc", *words)


def test_bash_reads_the_lines(command: Callable[..., Any]) -> None:
    script = command("-sc", "install=bash").out
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
