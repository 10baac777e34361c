"""What can go wrong, by exit status.

Whoever raises one of these writes a message of one line that names the key or the file, the
value, and what would be right. The command line prints it, and after it how to resume the run
where there is one to resume.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path


class CommandError(Exception):
    """A command ends with one line and an exit status.

    resumable: the directory of a run that can be resumed; None: there is none. agreed: whether all
    processes of the run end with it. silent: whether another one on this machine says it.
    """

    exit_status: int
    agreed = False
    silent = False

    def __init__(self, message: str = "", *, resumable: Path | None = None) -> None:
        super().__init__(message)
        self.resumable = resumable

    def agreed_as(self, other: BaseException) -> CommandError:
        """This error in place of another one."""
        if isinstance(other, CommandError):
            self.agreed, self.silent = other.agreed, other.silent
        return self


class RequestError(CommandError):
    """The request cannot be carried out as written (exit status 2)."""

    exit_status = 2


class TrainingError(CommandError):
    """Training failed on the way (exit status 1)."""

    exit_status = 1


class Interrupted(CommandError):
    """A signal asked the command to stop, and it stopped in good order (exit status 128 +
    signal)."""

    def __init__(self, signum: int, message: str = "", *, resumable: Path | None = None) -> None:
        super().__init__(message, resumable=resumable)
        self.signum = signum
        self.exit_status = 128 + signum


class Stopped(KeyboardInterrupt):
    """A signal, raised where it comes. Not an Exception, which libraries would catch
    as an error of theirs."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def signum_of(error: BaseException) -> int:
    """Of Interrupted, of Stopped, and of Python's own KeyboardInterrupt."""
    return int(getattr(error, "signum", signal.SIGINT))


def few(names: Sequence[str], most: int = 5) -> str:
    """For messages: the first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def printable(name: object) -> str:
    """For messages of one line: a name whose control characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))
