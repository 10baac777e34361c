"""Rows of earlier batches, first in, first out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks


class Queue(nn.Module):
    """The newest `size` rows that were pushed; random unit rows before.

    Each process pushes the rows of the global batch, so that all have the same queue.
    """

    rows_SD: Tensor
    place: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        checks.integer("queue", size, at_least=1)
        self.register_buffer("rows_SD", F.normalize(torch.randn(size, dim)))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def is_pushed_S(self) -> Tensor:
        """Which rows are of earlier batches, not the random ones from before."""
        return torch.arange(len(self.rows_SD), device=self.rows_SD.device) < self.pushed

    @torch.no_grad()
    def push(self, rows_ND: Tensor) -> None:
        """In the place of the oldest rows. Of more rows than the queue holds, the last ones."""
        size = len(self.rows_SD)
        rows_ND = rows_ND.detach()[-size:].to(self.rows_SD.dtype)
        places_N = (self.place + torch.arange(len(rows_ND), device=rows_ND.device)) % size
        self.rows_SD.index_copy_(0, places_N, rows_ND)
        self.place.copy_((self.place + len(rows_ND)) % size)
        self.pushed += len(rows_ND)
