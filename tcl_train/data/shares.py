"""Which images of a batch each process embeds, and in which chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tcl_train.errors import RequestError
from tcl_train.runtime.processes import ALONE, Processes


@dataclass(frozen=True)
class Shares:
    """Each process takes an equal part of every chunk of the batch, so that one process and several
    embed the same images together.

    Raises:
        RequestError: the batch or the chunk cannot be divided among the processes.
    """

    batch_size: int
    chunk_size: int | None = None
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        for name, size in (("batch_size", self.batch_size), ("chunk_size", self.chunk_size)):
            if size is not None and size % self.processes.count:
                raise RequestError(
                    f"{name}={size} cannot be divided among {self.processes.count} processes; give "
                    f"a multiple of {self.processes.count}"
                )

    @property
    def _chunk(self) -> int:
        return min(self.chunk_size or self.batch_size, self.batch_size)

    def places(self, rank: int | None = None) -> Tensor:
        """The places in the batch of a process's images, chunk after chunk; None: of this one."""
        rank = self.processes.rank if rank is None else rank
        parts = torch.arange(self.batch_size).split(self._chunk)
        return torch.cat([part.chunk(self.processes.count)[rank] for part in parts])

    def chunks(self) -> list[slice]:
        """The chunks of this process's images."""
        count = self.batch_size // self.processes.count
        chunk = self._chunk // self.processes.count
        return [slice(i, min(i + chunk, count)) for i in range(0, count, chunk)]

    def order(self) -> Tensor:
        """Where each image of the batch is found among the images of all processes, by rank."""
        ranks = range(self.processes.count)
        return torch.cat([self.places(rank) for rank in ranks]).argsort()

    @property
    def in_order(self) -> bool:
        """Whether the images of all processes, by rank, are in the order of the batch."""
        return self.processes.count == 1 or self._chunk == self.batch_size
