"""Images per second, and the share of time spent waiting for data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from torch.profiler import record_function

T = TypeVar("T")


class Meter:
    """Counts images, seconds, and seconds of waiting; since the start and since the last lap.

    On a GPU, work is asynchronous: laps are exact because they are taken where the loop reads
    the loss.
    """

    def __init__(self, *, images: int = 0, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.images, self.waited = images, waited
        self._seconds = seconds
        self._begin: float | None = None
        self._lap = (images, seconds, waited)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Only time inside this block counts."""
        self._begin = perf_counter()
        try:
            yield
        finally:
            self._seconds = self.seconds
            self._begin = None

    @property
    def seconds(self) -> float:
        return self._seconds + (0.0 if self._begin is None else perf_counter() - self._begin)

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waiting."""
        iterator = iter(batches)
        while True:
            begin = perf_counter()
            try:
                with record_function("data"):
                    batch = next(iterator)
            except StopIteration:
                return
            self.waited += perf_counter() - begin
            yield batch

    def lap(self) -> dict[str, float]:
        """Rates since the last lap."""
        images, seconds, waited = self._lap
        self._lap = (self.images, self.seconds, self.waited)
        passed = max(1e-9, self._lap[1] - seconds)
        return {
            "images_per_second": (self.images - images) / passed,
            "data_wait_percent": 100 * (self.waited - waited) / passed,
        }

    def total(self) -> dict[str, float]:
        """Rates since the run began."""
        seconds = max(1e-9, self.seconds)
        return {
            "images_per_second": self.images / seconds,
            "data_wait_percent": 100 * self.waited / seconds,
        }

    def state_dict(self) -> dict[str, float]:
        return {"images": self.images, "seconds": self.seconds, "waited": self.waited}
