"""What a command says of a failure, and its exit status."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tcl_train.errors import CommandError, printable, signum_of

INTERRUPTED = "interrupted"
NOTHING_STARTED = f"{INTERRUPTED}; nothing was started"
# What is wrong with a file that was named is wrong with the request, unless the disk fails.
DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def traceback_wanted() -> bool:
    """Whether the user asks for tracebacks in place of lines."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def explained(error: BaseException, *, trains: bool) -> tuple[str, int]:
    """The line to print and the exit status. trains: the command is tcl-train, for which a signal
    means that training had not started."""
    interrupted = NOTHING_STARTED if trains else INTERRUPTED
    if isinstance(error, CommandError):
        return _of_command(error, interrupted), error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return interrupted, 128 + signum_of(error)
    if isinstance(error, OSError) and error.filename is not None:
        status = 1 if error.errno in DISK_FAILS else 2
        return f"{printable(error.filename)}: {error.strerror}", status
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows the traceback)", 1


def _of_command(error: CommandError, interrupted: str) -> str:
    message = " ".join(str(error).split()) or interrupted
    if error.resumable is None:
        return message
    return f"{message}; resume with: tcl-train {_shell_word(error.resumable)}"


def _shell_word(run_dir: Path) -> str:
    from tcl_train.cli.overrides import shell_word

    return shell_word("resume", run_dir)
