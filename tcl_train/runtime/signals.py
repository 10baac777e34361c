"""The signals that stop a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tcl_train.errors import Interrupted


class Signals:
    """Whether the user or the system has asked the run to stop.

    Inside :meth:`caught` the first SIGINT or SIGTERM is remembered in `received`, and the training
    loop stops after its step; the second raises Interrupted at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        signums = (signal.SIGINT, signal.SIGTERM)
        before = {signum: signal.signal(signum, self._receive) for signum in signums}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.received is not None:
            raise Interrupted(signum)
        self.received = signum
