"""The commands. Each composes, checks, runs, and says the result in one line.

torch is loaded only when something is to be computed, so that help and typing errors are quick.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from tcl_train.cli.embed import embed_command
from tcl_train.cli.evaluate import evaluate_command
from tcl_train.cli.export import export_command
from tcl_train.cli.failures import explained, traceback_wanted
from tcl_train.cli.report import report_command
from tcl_train.cli.streams import forgiving_streams
from tcl_train.cli.train import train_command
from tcl_train.errors import CommandError
from tcl_train.runtime.memory import ask_for_huge_pages, keep_freed_memory
from tcl_train.runtime.signals import as_interruption, interrupting, obey_no_more

if TYPE_CHECKING:
    from tcl_train.runtime.processes import Processes


# Takes the words of a command line, and the processes that torchrun has started, if it has.
Command = Callable[[list[str], "Processes | None"], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """`tcl-train`; returns the exit status."""
    return _guarded("tcl-train", train_command, arguments)


def main_eval(arguments: Sequence[str] | None = None) -> int:
    """`tcl-eval`; returns the exit status."""
    return _guarded("tcl-eval", evaluate_command, arguments)


def main_export(arguments: Sequence[str] | None = None) -> int:
    """`tcl-export`; returns the exit status."""
    return _guarded("tcl-export", export_command, arguments)


def main_embed(arguments: Sequence[str] | None = None) -> int:
    """`tcl-embed`; returns the exit status."""
    return _guarded("tcl-embed", embed_command, arguments)


def main_report(arguments: Sequence[str] | None = None) -> int:
    """`tcl-report`; returns the exit status."""
    return _guarded("tcl-report", report_command, arguments)


def _guarded(name: str, command: Command, arguments: Sequence[str] | None) -> int:
    """Every failure is one line on standard error and an exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = arguments is None  # the process is the command's
    with forgiving_streams(), interrupting(to_the_end=own):
        return _run_command(name, command, words)


def _run_command(name: str, command: Command, arguments: list[str]) -> int:
    ask_for_huge_pages()
    keep_freed_memory()
    # Hydra logs what its error says anyway; without a handler Python would print it.
    if not (hydras := logging.getLogger("hydra")).handlers:
        hydras.addHandler(logging.NullHandler())
    try:
        status = _in_each_process(command, arguments)
        obey_no_more()
        return status
    except (Exception, KeyboardInterrupt) as raised:
        obey_no_more()
        error = as_interruption(raised)
        if traceback_wanted() and not isinstance(error, KeyboardInterrupt):
            raise
        line, status = explained(error, trains=name == "tcl-train")
        if not (isinstance(error, CommandError) and error.silent):
            print(f"{name}: {line}", file=sys.stderr)
        return status


def _in_each_process(command: Command, arguments: list[str]) -> int:
    """Carries out the command: where torchrun has started several processes, in all of them, which
    end in the same way; only the first one prints."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return command(arguments, None)
    from tcl_train.runtime.processes import of_torchrun

    with of_torchrun() as processes, processes.failing_together(), _printing(processes.is_first):
        return command(arguments, processes)


@contextmanager
def _printing(wanted: bool) -> Iterator[None]:
    if wanted:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield
