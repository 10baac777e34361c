"""Choosing the hard negatives of each anchor.

N, M: rows; I: rows of a block; D: embedding dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tcl_train.losses.blockwise import Hardest, WorkShare, current_share
from tcl_train.losses.pair_loss import SortedRows, similarities

MOST_PAIRS = 2**22  # in one block


@torch.no_grad()
def hardest_negatives(rows: SortedRows, alpha: float) -> Hardest:
    """The share `alpha` of each anchor's negatives with the largest similarity, at least one of
    them. The rows are taken in blocks."""
    n = len(rows.z_ND)
    block = max(1, MOST_PAIRS // n)
    found = Hardest(rows.z_ND.new_zeros(n), rows.z_ND.new_zeros(n))
    share = current_share() if n > block else WorkShare()
    for place, i in enumerate(range(0, n, block)):
        if share.takes(place):
            of_block = slice(i, i + block)
            sim_IN = similarities(rows.z_ND[of_block], rows.z_ND)
            negative_IN = rows.group_N[of_block, None] != rows.group_N
            floor_I, share_I = hardest_of(sim_IN, negative_IN, alpha)
            found.floor_N[of_block], found.share_N[of_block] = floor_I, share_I
    share.add_up([*found])
    return found


@torch.no_grad()
def hardest_of(sim_NM: Tensor, negative_NM: Tensor, alpha: float) -> Hardest:
    """The same, from a dense matrix."""
    masked_NM = sim_NM.masked_fill(~negative_NM, float("-inf"))
    count_N = negative_NM.sum(1)
    kept_N = _kept(alpha, negative_NM.shape[1]).to(sim_NM.device, non_blocking=True)[count_N]
    floor_N = masked_NM.sort(1, descending=True).values.gather(1, kept_N[:, None] - 1)[:, 0]
    above_NM, tied_NM = _above_and_tied(masked_NM, floor_N)
    share_N = (kept_N - above_NM.sum(1)) / tied_NM.sum(1).clamp(min=1)
    share_N = share_N.clamp(0, 1).to(sim_NM.dtype)
    none_N = count_N == 0
    return Hardest(floor_N.masked_fill(none_N, float("inf")), share_N.masked_fill(none_N, 1))


def _kept(alpha: float, most: int) -> Tensor:
    """How many negatives are kept of 0, 1, ... `most`; by NumPy, since not every device of torch
    has float64."""
    counts = np.ceil(alpha * np.arange(most + 1) - 1e-9).astype(np.int64)
    return torch.from_numpy(counts.clip(min=1))


def _above_and_tied(sim_NM: Tensor, floor_N: Tensor) -> tuple[Tensor, Tensor]:
    """Which similarities are above the floor, and which at it; NaN is at it, so that it stays."""
    above_NM = sim_NM > Hardest.above(floor_N)[:, None]
    return above_NM, ~above_NM & ~(sim_NM < Hardest.below(floor_N)[:, None])


def hardest_weights(sim_NM: Tensor, negative_NM: Tensor, alpha: float) -> Tensor:
    """The weight of each pair: 1 above the floor, the share at it, 0 below and for positives."""
    floor_N, share_N = hardest_of(sim_NM.detach(), negative_NM, alpha)
    above_NM, tied_NM = _above_and_tied(sim_NM, floor_N)
    weight_NM = above_NM.to(sim_NM.dtype) + tied_NM * share_N[:, None]
    return weight_NM * negative_NM
