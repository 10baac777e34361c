"""What can go wrong, by exit status.

Whoever raises one of these writes a message of one line that names the key or the file, the
value, and what would be right; the command line prints it and adds nothing.
"""

from __future__ import annotations

import signal


class RequestError(Exception):
    """The request cannot be carried out as written (exit status 2)."""

    exit_status = 2


class TrainingError(Exception):
    """Training failed on the way (exit status 1)."""

    exit_status = 1


class Interrupted(Exception):
    """A signal asked the run to stop, and it stopped in good order (exit status 128 + signal)."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_status = 128 + signum
        self.signal_name = signal.Signals(signum).name
