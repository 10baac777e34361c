"""Image files that are decoded once, in threads, while something else computes.

B: images of a batch; S: side of a decoded image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tcl_train.data.decode import UnreadableImage, decode, quietly

Task = TypeVar("Task")
AHEAD = 2  # batches that are decoded while a device works on one
FILES_OF_A_TASK = 8  # so that small images cost little more than their decoding


class Decoded(NamedTuple):
    """Those files of a batch that could be decoded, uint8, and their places in it."""

    images_B3SS: Tensor
    places_B: list[int]


def decoded_batches(
    batches: Sequence[Sequence[str]], size: int, *, threads: int, skip: bool, ahead: int = AHEAD
) -> Iterator[Decoded]:
    """Each batch of paths, decoded as :func:`tcl_train.data.decode.decode` does.

    skip: leave out files that cannot be decoded. ahead: batches that are decoded while one is
    worked on; 0 where decoding would take the cores from what works on it.

    Raises:
        UnreadableImage: a file cannot be decoded, and `skip` is not set.
    """
    with quietly(), ThreadPoolExecutor(max(1, threads)) as pool:

        def begin(paths: Sequence[str]) -> _Batch:
            return _Batch(pool, paths, size, skip=skip)

        try:
            for batch in begun_ahead(map(begin, batches), ahead):
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

    def __init__(
        self, pool: ThreadPoolExecutor, paths: Sequence[str], size: int, *, skip: bool
    ) -> None:
        self.paths = paths
        self.skip = skip
        self.images_B3SS = np.empty((len(paths), 3, size, size), np.uint8)
        starts = range(0, len(paths), FILES_OF_A_TASK)
        self.tasks: list[Future[list[int]]] = [pool.submit(self._decode, at) for at in starts]

    def _decode(self, start: int) -> list[int]:
        """The places that are filled."""
        filled = []
        for place in range(start, min(start + FILES_OF_A_TASK, len(self.paths))):
            try:
                self.images_B3SS[place] = decode(self.paths[place], self.images_B3SS.shape[2])
            except UnreadableImage:
                if not self.skip:
                    raise
            else:
                filled.append(place)
        return filled

    def result(self) -> Decoded:
        places_B = [place for task in self.tasks for place in task.result()]
        images_B3SS = torch.from_numpy(self.images_B3SS)
        whole = len(places_B) == len(self.paths)
        return Decoded(images_B3SS if whole else images_B3SS[places_B], places_B)
