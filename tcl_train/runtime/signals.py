"""The signals that stop a run."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tcl_train.errors import Interrupted, Stopped

# Ctrl-C; a scheduler that ends a job; a terminal that is closed; Slurm's warning before the end.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handled(signums: Sequence[int], handler: Handler) -> Iterator[None]:
    """The handler gets these signals inside the block."""
    before = _handle(signums, handler)
    try:
        yield
    finally:
        _handle_as(before)


def _handle(signums: Sequence[int], handler: Handler) -> dict[int, Any]:
    """From now on the handler gets these signals; gives the handlers before it. A SIGHUP that the
    process was started to ignore (by nohup) stays ignored."""
    before = {}
    for signum in signums:
        present = signal.getsignal(signum)
        if signum == getattr(signal, "SIGHUP", None) and present == signal.SIG_IGN:
            continue
        before[signum] = signal.signal(signum, handler)
    return before


def _handle_as(before: dict[int, Any]) -> None:
    for signum, handler in before.items():
        signal.signal(signum, handler)


class _Signals:
    """Those that have come, and whether one that comes now is obeyed. Signals belong to the
    process, so there is one of these."""

    def __init__(self) -> None:
        self.come: list[int] = []
        self.obeyed = True


_signals = _Signals()


@contextmanager
def interrupting(*, to_the_end: bool = False) -> Iterator[None]:
    """Inside the block a signal raises Stopped where it comes, and is remembered: in the middle of
    an import, say, code of others drops the exception, or raises another one.

    to_the_end: the process ends after the block, until when signals change nothing any more.
    """
    _signals.obeyed = True
    before = _handle(STOPPING, _interrupt)
    try:
        yield
    finally:
        obey_no_more()
        if to_the_end:
            ignored_at_exit()
        else:
            _handle_as(before)
        _signals.come.clear()


def obey_no_more() -> None:
    """From here on signals change nothing: the command has finished, or it has failed and is about
    to report why."""
    _signals.obeyed = False


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if _signals.obeyed:
        _signals.come.append(signum)
        raise Stopped(signum)


def stop_if_interrupted() -> None:
    """Raises Stopped where a signal has come and the exception was dropped."""
    if _signals.come:
        raise Stopped(_signals.come[-1])


def as_interruption(error: BaseException) -> BaseException:
    """What ended the command: the signal, where another exception was raised in the place of it."""
    if not _signals.come or isinstance(error, Interrupted | KeyboardInterrupt):
        return error
    stopped = Stopped(_signals.come[-1])
    stopped.__cause__ = error
    return stopped


def ignored_at_exit() -> None:
    """While the interpreter's exit handlers run and after them, signals change nothing: the command
    has done what it was to do, and its exit status says so."""
    atexit.unregister(_ignore)
    atexit.register(_ignore)


def _ignore() -> None:
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def ignored() -> Iterator[None]:
    """Inside the block the signals that stop a command change nothing, as in
    :func:`ignored_at_exit`."""
    with handled(STOPPING, lambda signum, frame: None):  # noqa: ARG005
        yield


class Signals:
    """Whether the user or the system has asked the run to stop.

    Inside :meth:`caught` the first of the STOPPING signals is remembered in `received`, and the
    training loop stops after its step; the second raises Stopped at once.

    largest: the largest of the numbers that the processes of the run give, where there are several:
    a signal to one of them stops all after the same step. Then a second signal changes nothing,
    since torchrun passes on to each process what the terminal has sent to it already.
    """

    def __init__(self, largest: Callable[[int], int] | None = None) -> None:
        self.received: int | None = None
        self._largest = largest
        self._agreed = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        with handled(STOPPING, self._receive):
            yield

    def agreed(self) -> int | None:
        """The signal that this process or another one of the run has received. All processes must
        ask at the same step."""
        if self._largest is None:
            return self.received
        if not self._agreed:
            self._agreed = self._largest(self.received or 0)
        return self._agreed or None

    def _receive(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is not None and self._largest is None:
            raise Stopped(signum)
        self.received = signum
