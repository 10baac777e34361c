"""Image files that are decoded once, in threads, while something else computes.

B: images of a batch; S: side of a decoded image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tcl_train.data.decode import UnreadableImage, decode, quietly

Task = TypeVar("Task")
AHEAD = 2  # batches that are decoded while a device works on one
FILES_OF_A_TASK = 32  # threads that take small images one by one wait for each other


class Decoded(NamedTuple):
    """Those files of a batch that could be decoded, uint8, and their places in it."""

    images_B3SS: Tensor
    places_B: list[int]


def decode_files(paths: Sequence[str], size: int, *, skip: bool) -> Decoded:
    """Files, decoded as :func:`tcl_train.data.decode.decode` does.

    skip: leave out those that cannot be decoded.

    Raises:
        UnreadableImage: a file cannot be decoded, and `skip` is not set.
    """
    images_B3SS = _room(len(paths), size)
    return _decoded(images_B3SS, _fill(images_B3SS, paths, skip=skip))


def decoded_batches(
    batches: Sequence[Sequence[str]], size: int, *, threads: int, skip: bool
) -> Iterator[Decoded]:
    """The same for each batch of paths, in so many threads, ahead of the one that is worked on."""
    with quietly(), ThreadPoolExecutor(max(1, threads)) as pool:

        def begin(paths: Sequence[str]) -> _Batch:
            return _Batch(pool, paths, size, skip=skip)

        try:
            for batch in begun_ahead(map(begin, batches), AHEAD):
                yield batch.result()
        finally:
            pool.shutdown(cancel_futures=True)


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

    def __init__(self, pool: Executor, paths: Sequence[str], size: int, *, skip: bool) -> None:
        self.images_B3SS = _room(len(paths), size)
        self.starts = range(0, len(paths), FILES_OF_A_TASK)
        self.tasks = [
            pool.submit(_fill, self.images_B3SS[part], paths[part], skip=skip)
            for part in (slice(start, start + FILES_OF_A_TASK) for start in self.starts)
        ]

    def result(self) -> Decoded:
        parts = zip(self.starts, self.tasks, strict=True)
        places_B = [start + place for start, task in parts for place in task.result()]
        return _decoded(self.images_B3SS, places_B)


def _room(count: int, size: int) -> np.ndarray:
    return np.empty((count, 3, size, size), np.uint8)


def _fill(images_B3SS: np.ndarray, paths: Sequence[str], *, skip: bool) -> list[int]:
    """The places that are filled."""
    filled = []
    for place, path in enumerate(paths):
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
