"""Processes that all have the same rows share out the blocks, and add up what they found.

The loss and its gradients are then those of all rows in each process, as without sharing; only the
order of sums differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class WorkShare:
    """This process's part. add_up: replaces tensors by their sums over the processes."""

    rank: int = 0
    count: int = 1
    add_up: Callable[[list[Tensor]], None] = field(default=lambda _: None, compare=False)

    def takes(self, i: int) -> bool:
        """Whether the i-th block, 0, 1, ..., is of this part."""
        return i % self.count == self.rank


ALONE = WorkShare()
_current: ContextVar[WorkShare] = ContextVar("work_share", default=ALONE)


def current_share() -> WorkShare:
    return _current.get()


@contextmanager
def work_shared(rank: int, count: int, add_up: Callable[[list[Tensor]], None]) -> Iterator[None]:
    """Losses of many rows that are taken inside the block, by all of `count` processes alike, are
    shared out between them; so are their backward passes."""
    before = _current.set(WorkShare(rank, count, add_up))
    try:
        yield
    finally:
        _current.reset(before)
