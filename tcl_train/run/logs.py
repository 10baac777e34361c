"""Messages of a run: on the terminal and in its train.log.

Modules log through `logging.getLogger(__name__)`; nothing here touches other packages' loggers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from typing import Any, TextIO

from tqdm import tqdm

from tcl_train.errors import Interrupted
from tcl_train.run.directory import RunDir

PACKAGE = logging.getLogger("tcl_train")


def progress_bar(*, total: int, done: int, unit: str = "step", file: TextIO | None = None) -> Any:
    """A tqdm bar with the time left; silent where the output is not a terminal. file: where it is
    written; None: to standard error."""
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        file=file,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        leave=False,
    )


@contextmanager
def own_standard_error() -> Iterator[TextIO | None]:
    """A way to the terminal for a progress bar, while standard error is silenced for decoders; None
    where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        yield terminal


class _AboveProgressBar(logging.StreamHandler):
    """Prints to standard output without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def log_to_terminal() -> None:
    """Messages of this package go to standard output, without a prefix."""
    PACKAGE.setLevel(logging.INFO)
    PACKAGE.propagate = False
    if not any(isinstance(handler, _AboveProgressBar) for handler in PACKAGE.handlers):
        PACKAGE.addHandler(_AboveProgressBar())


@contextmanager
def held_messages() -> Iterator[MemoryHandler]:
    """Keeps messages for the train.log of a run that has no directory yet."""
    handler = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    PACKAGE.addHandler(handler)
    try:
        yield handler
    finally:
        PACKAGE.removeHandler(handler)


@contextmanager
def log_to_file(run_dir: RunDir, held: MemoryHandler | None = None) -> Iterator[None]:
    """Messages, first those held, also go to the run's train.log with the time; so does the
    traceback of an exception that leaves the block, unless it only asks to stop."""
    handler = _LogFile(run_dir.log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    if held is not None:
        PACKAGE.removeHandler(held)
        held.setTarget(handler)
        held.flush()
    PACKAGE.addHandler(handler)
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        handler.handle(_traceback_record(error))
        raise
    finally:
        PACKAGE.removeHandler(handler)
        with suppress(OSError):  # the disk is full: what stopped the run is reported elsewhere
            handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A message never stops a run, nor does it print a traceback: the disk is full."""


def _traceback_record(error: BaseException) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__)
    return logging.LogRecord(__name__, logging.ERROR, __file__, 0, "failed", None, info)
