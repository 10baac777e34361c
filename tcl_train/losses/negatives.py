"""Choosing the hard negatives of each anchor.

N: rows; I: rows of a block; D: embedding dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train.losses.pair_loss import SortedRows, similarities

MOST_PAIRS = 2**22  # in one block

# Blocks of other shapes may round a product differently; the floor is lowered by this many units
# of rounding, so that it never cuts the very negative that it was taken from.
ROUNDING = 32


@torch.no_grad()
def negative_floor(rows: SortedRows, alpha: float) -> Tensor:
    """Per anchor, the smallest similarity among the hardest share `alpha` of its negatives (at
    least one of them); +inf for an anchor without negatives. The rows are taken in blocks."""
    block = max(1, MOST_PAIRS // len(rows.z_ND))
    floors = []
    for unit_ID, group_I in zip(rows.z_ND.split(block), rows.group_N.split(block), strict=True):
        sim_IN = similarities(unit_ID, rows.z_ND)
        floors.append(floor_of(sim_IN, group_I[:, None] != rows.group_N, alpha))
    return torch.cat(floors) - ROUNDING * torch.finfo(rows.z_ND.dtype).eps


def floor_of(sim_NM: Tensor, negative_NM: Tensor, alpha: float) -> Tensor:
    """The same, from a dense matrix."""
    sorted_NM = sim_NM.masked_fill(~negative_NM, float("-inf")).sort(1, descending=True).values
    count_N = negative_NM.sum(1)
    kept_N = (alpha * count_N.double() - 1e-9).ceil().long().clamp(min=1)
    floor_N = sorted_NM.gather(1, kept_N[:, None] - 1)[:, 0]
    return torch.where(count_N > 0, floor_N, float("inf"))
