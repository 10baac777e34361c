"""Threads that end early where nobody needs their work any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At least one thread, for a `with` block. When the block is left, be it by an error or a
    signal, tasks that have not begun are dropped, and those that run end early where they ask
    :attr:`stopping` between two steps, or go through :meth:`while_needed`.

    begin: what each thread calls first.
    """

    def __init__(self, count: int, begin: Callable[[], object] | None = None) -> None:
        self.count = max(1, count)
        self._pool = ThreadPoolExecutor(self.count, initializer=begin)
        self._left = Event()

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
    ) -> Future[T]:
        return self._pool.submit(function, *arguments, **named)

    @property
    def stopping(self) -> bool:
        return self._left.is_set()

    def while_needed(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, until the block is left."""
        for item in items:
            if self.stopping:
                return
            yield item
