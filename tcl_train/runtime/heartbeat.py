"""Noticing that another process of the run has ended without a word: killed, or on a machine that
went down. Whoever waits for it would wait for ever: torchrun notices, other launchers need not."""

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic
from typing import Any

SECONDS_BETWEEN_BEATS = 1.0
SECONDS_OF_SILENCE = 60.0  # a long computation may keep the thread from its beats


class Heartbeat:
    """Counts up a number of this process in a store, in a thread, until `end` is called.

    store: of torch.distributed, for nobody else's use: its calls wait for each other.
    """

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in range(count) if other != rank]
        self._heard = {other: (0, monotonic()) for other in self._others}
        self._looked = monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        with suppress(Exception):  # the store went with its process, which others notice
            while not self._ended.wait(SECONDS_BETWEEN_BEATS):
                self._store.add(_key(self._rank), 1)

    def silent(self) -> int | None:
        """The rank of a process that has not been heard for SECONDS_OF_SILENCE; None: all have. May
        be asked often: it looks once a second."""
        now = monotonic()
        if now - self._looked < SECONDS_BETWEEN_BEATS:
            return None
        self._looked = now
        for other in self._others:
            beats = self._store.add(_key(other), 0)
            before, when = self._heard[other]
            if beats != before:
                self._heard[other] = (beats, now)
            elif now - when > SECONDS_OF_SILENCE:
                return other
        return None

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=2 * SECONDS_BETWEEN_BEATS)  # unless the store does not answer


def _key(rank: int) -> str:
    return f"heartbeat of {rank}"
