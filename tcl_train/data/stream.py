"""Image files that are decoded once, in threads, while something else computes.

B: images of a batch; S: side of a decoded image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tcl_train.data.decode import UnreadableImage, decode, quietly
from tcl_train.runtime.threads import Threads

Task = TypeVar("Task")
AHEAD = 2  # batches that are decoded while a device works on one
MOST_AT_A_TIME = 32  # files that a thread takes: with small ones, taken singly, threads wait a lot


class Decoded(NamedTuple):
    """Those files of a batch that could be decoded, uint8, and their places in it."""

    images_B3SS: Tensor
    places_B: list[int]


def decode_files(paths: Sequence[str], size: int, threads: Threads, *, skip: bool) -> Decoded:
    """Files, decoded by one of these threads as :func:`tcl_train.data.decode.decode` does; none or
    a part of them where they are to stop.

    skip: leave out those that cannot be decoded.

    Raises:
        UnreadableImage: a file cannot be decoded, and `skip` is not set.
    """
    images_B3SS = _room(len(paths), size)
    return _decoded(images_B3SS, _fill(images_B3SS, paths, threads, skip=skip))


@contextmanager
def decoded_batches(
    batches: Sequence[Sequence[str]], size: int, *, threads: int, skip: bool
) -> Iterator[Iterator[Decoded]]:
    """Each batch of paths as :func:`decode_files` gives it, decoded in so many threads ahead of the
    one that is worked on."""
    with quietly(), Threads(threads) as pool:

        def begin(paths: Sequence[str]) -> _Batch:
            return _Batch(pool, paths, size, skip=skip)

        yield (batch.result() for batch in begun_ahead(map(begin, batches), AHEAD))


def begun_ahead(tasks: Iterator[Task], ahead: int) -> Iterator[Task]:
    """The same tasks, each of which begins when it is taken; while one is worked on, so many after
    it have begun."""
    begun = deque(islice(tasks, ahead))
    while True:
        begun.extend(islice(tasks, 1))
        if not begun:
            return
        yield begun.popleft()


class _Batch:
    """A batch that is being decoded."""

    def __init__(self, threads: Threads, paths: Sequence[str], size: int, *, skip: bool) -> None:
        self.images_B3SS = _room(len(paths), size)
        at_a_time = files_at_a_time(len(paths), threads.count)
        self.starts = range(0, len(paths), at_a_time)
        self.tasks = [
            threads.submit(_fill, self.images_B3SS[part], paths[part], threads, skip=skip)
            for part in (slice(start, start + at_a_time) for start in self.starts)
        ]

    def result(self) -> Decoded:
        parts = zip(self.starts, self.tasks, strict=True)
        places_B = [start + place for start, task in parts for place in task.result()]
        return _decoded(self.images_B3SS, places_B)


def files_at_a_time(count: int, threads: int) -> int:
    """How many of so many files each of these threads should take."""
    return max(1, min(MOST_AT_A_TIME, count // threads))


def _room(count: int, size: int) -> np.ndarray:
    return np.empty((count, 3, size, size), np.uint8)


def _fill(
    images_B3SS: np.ndarray, paths: Sequence[str], threads: Threads, *, skip: bool
) -> list[int]:
    """The places that are filled."""
    filled = []
    for place, path in enumerate(threads.while_needed(paths)):
        try:
            images_B3SS[place] = decode(path, images_B3SS.shape[2])
        except UnreadableImage:
            if not skip:
                raise
        else:
            filled.append(place)
    return filled


def _decoded(images_B3SS: np.ndarray, places_B: list[int]) -> Decoded:
    whole = len(places_B) == len(images_B3SS)
    return Decoded(torch.from_numpy(images_B3SS if whole else images_B3SS[places_B]), places_B)
