"""One batch against itself: S is symmetric, so half the blocks serve both sides; and since rows are
sorted by label, most blocks hold no positive pair and need no mask.

N: rows; D: embedding dimensions; I, J: rows and columns of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcl_train.autograd import ClosedForm, first_derivative
from tcl_train.losses.blockwise.sharing import current_share
from tcl_train.losses.blockwise.tiles import (
    PairWeights,
    Tile,
    log_weight,
    select_number,
    tile_for,
)
from tcl_train.losses.uncompiled import uncompiled

# D of unit rows stays in range, sums over a million rows included, if the logarithm of its largest
# term is at most this; and so do the products of which the gradient is made.
LARGEST_LOG_TERM = {torch.float32: 60.0, torch.float64: 600.0}
LARGEST_TAU = 1e3


def unit_rows_fit(dtype: torch.dtype, weights: PairWeights) -> bool:
    """Whether :func:`symmetric_log_denominator` can take unit rows with these weights. The
    rectangular form, which computes with logarithms, takes all."""
    tau, k1, negative = weights
    largest = max(1 / tau, log_weight(k1) + 1, log_weight(negative) + 1 / tau)
    return largest <= LARGEST_LOG_TERM[dtype] and tau <= LARGEST_TAU


def symmetric_log_denominator(
    z_ND: Tensor, group_N: Tensor, weights: PairWeights, tile: Tile | None = None
) -> Tensor:
    """log D of each row against all others, (N,); -inf where there is nothing to sum.

    Args:
        z_ND: unit rows, float32 or float64, sorted by group.
        group_N: int64, ascending; rows with one value are positives of each other.
        weights: for which :func:`unit_rows_fit`.
        tile: the largest block; None chooses for the device.
    """
    tile = tile or tile_for(z_ND.device)
    with torch.autocast(z_ND.device.type, enabled=False):
        if len(z_ND) <= tile.whole:
            return _Whole.call(z_ND, group_N, weights)
        return _in_blocks(z_ND, group_N, weights, tile)


@uncompiled
def _in_blocks(z_ND: Tensor, group_N: Tensor, weights: PairWeights, tile: Tile) -> Tensor:
    """One matrix product after the other fills the device; a compiler would unroll them all."""
    return _Symmetric.call(z_ND, group_N, weights, tile)


class _Block(NamedTuple):
    """Rows [i, i_end) against columns [j, j_end); mixed: with positives or the rows themselves."""

    i: int
    i_end: int
    j: int
    j_end: int
    mixed: bool


def _blocks(group_N: Tensor, tile: Tile) -> Iterator[_Block]:
    """The blocks on and above the diagonal; the first of each row of blocks is on it."""
    n = len(group_N)
    # Reading labels would make the host wait for a GPU; there, every block is masked.
    ends = _group_ends(group_N) if group_N.device.type == "cpu" else None
    i = 0
    while i < n:
        i_end = min(i + tile.rows, n)
        mixed_end = n
        if ends is not None:
            mixed_end = ends[i_end - 1]
            if mixed_end > i_end and ends[i] < i_end:  # cut between groups rather than in one
                i_end = max(end for end in set(ends[i:i_end]) if end <= i_end)
                mixed_end = i_end
        yield _Block(i, i_end, i, i_end, True)
        for j in range(i_end, n, tile.columns):
            yield _Block(i, i_end, j, min(j + tile.columns, n), j < mixed_end)
        i = i_end


def _group_ends(group_N: Tensor) -> list[int]:
    """For each row, where its group ends."""
    _, size_K = torch.unique_consecutive(group_N, return_counts=True)
    return size_K.cumsum(0).repeat_interleave(size_K).tolist()


class _Whole(ClosedForm):
    """All in one block: few operations, which is what counts for a small batch."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, group_N: Tensor, weights: PairWeights) -> Tensor:
        block = _Block(0, len(z_ND), 0, len(z_ND), True)
        logit_NN = _logits_of_unit_rows(z_ND, z_ND, weights.tau)
        terms = _terms(logit_NN, block, group_N, weights)
        d_N = terms.sum(1)
        ctx.save_for_backward(z_ND, d_N, terms.slopes())
        ctx.tau = weights.tau
        return d_N.log()

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None]:
        z_ND, d_N, slope_NN = ctx.saved_tensors
        a_N = _by_sum(gradient_N, d_N) / ctx.tau
        with torch.autocast(z_ND.device.type, enabled=False):
            return (a_N[:, None] + a_N).mul_(slope_NN) @ z_ND, None, None


class _Symmetric(ClosedForm):
    @staticmethod
    def forward(
        ctx: Any, z_ND: Tensor, group_N: Tensor, weights: PairWeights, tile: Tile
    ) -> Tensor:
        d_N = z_ND.new_zeros(len(z_ND))
        buffer = z_ND.new_empty(tile.rows * max(tile.rows, tile.columns))
        share = current_share()
        for place, block in enumerate(_blocks(group_N, tile)):
            if not share.takes(place):
                continue
            i, i_end, j, j_end, mixed = block
            logit_IJ = _logits_of_unit_rows(z_ND[i:i_end], z_ND[j:j_end], weights.tau, buffer)
            terms = _terms(logit_IJ, block, group_N, weights) if mixed else _Terms(logit_IJ.exp_())
            factor = 1.0 if mixed else weights.negative
            d_N[i:i_end].add_(terms.sum(1), alpha=factor)
            if j != i:
                d_N[j:j_end].add_(terms.sum(0), alpha=factor)
        share.add_up([d_N])
        ctx.save_for_backward(z_ND, group_N, d_N)
        ctx.weights, ctx.tile, ctx.share = weights, tile, share
        return d_N.log()

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None, None]:
        z_ND, group_N, d_N = ctx.saved_tensors
        weights, tile = ctx.weights, ctx.tile
        a_N = _by_sum(gradient_N, d_N) / weights.tau
        d_z_ND = torch.zeros_like(z_ND)
        buffer = z_ND.new_empty(tile.rows * max(tile.rows, tile.columns))
        pair_buffer = torch.empty_like(buffer)
        with torch.autocast(z_ND.device.type, enabled=False):
            for place, block in enumerate(_blocks(group_N, tile)):
                if not ctx.share.takes(place):
                    continue
                i, i_end, j, j_end, mixed = block
                h_IJ = _logits_of_unit_rows(z_ND[i:i_end], z_ND[j:j_end], weights.tau, buffer)
                a_I, a_J = a_N[i:i_end], a_N[j:j_end]
                if mixed:
                    h_IJ = _terms(h_IJ, block, group_N, weights).slopes()
                else:
                    h_IJ.exp_()
                    a_I, a_J = a_I * weights.negative, a_J * weights.negative
                # s_ij is in D_i and in D_j.
                both_IJ = pair_buffer[: h_IJ.numel()].view(h_IJ.shape)
                torch.add(a_I[:, None], a_J, out=both_IJ)
                h_IJ.mul_(both_IJ)
                d_z_ND[i:i_end].addmm_(h_IJ, z_ND[j:j_end])
                if j != i:
                    d_z_ND[j:j_end].addmm_(h_IJ.T, z_ND[i:i_end])
        ctx.share.add_up([d_z_ND])
        return d_z_ND, None, None, None


def _logits_of_unit_rows(
    a_ID: Tensor, b_JD: Tensor, tau: float, buffer: Tensor | None = None
) -> Tensor:
    """s/tau, in the buffer's memory."""
    if buffer is None:
        buffer = a_ID.new_empty(len(a_ID) * len(b_JD))
    out_IJ = buffer[: len(a_ID) * len(b_JD)].view(len(a_ID), len(b_JD))
    return torch.addmm(out_IJ, a_ID, b_JD.T, beta=0, alpha=1 / tau, out=out_IJ)


def _masks(block: _Block, group_N: Tensor) -> Tensor:
    """Which pairs are positives; a row and itself are none."""
    i, i_end, j, j_end, _ = block
    positive_IJ = group_N[i:i_end, None] == group_N[j:j_end]
    if i == j:
        positive_IJ.fill_diagonal_(False)
    return positive_IJ


class _Terms(NamedTuple):
    """The terms of D in a block: those that grow with s; and those of k1, which fall, as e^{-s} and
    a factor."""

    attraction_IJ: Tensor
    extra_IJ: Tensor | None = None
    k1: float = 0.0
    tau: float = 1.0

    def sum(self, dim: int) -> Tensor:
        total = self.attraction_IJ.sum(dim)
        return total if self.extra_IJ is None else total.add_(self.extra_IJ.sum(dim), alpha=self.k1)

    def slopes(self) -> Tensor:
        """tau times the derivatives of the terms by s, in the memory of the first."""
        if self.extra_IJ is None:
            return self.attraction_IJ
        return self.attraction_IJ.sub_(self.extra_IJ, alpha=self.k1 * self.tau)


def _terms(logit_IJ: Tensor, block: _Block, group_N: Tensor, weights: PairWeights) -> _Terms:
    """Of a block with positives, from s/tau, which is used up."""
    positive_IJ = _masks(block, group_N)
    e_IJ = logit_IJ.exp()
    if weights.negative != 1:
        e_IJ.mul_(select_number(positive_IJ, 1.0, weights.negative, e_IJ))
    if block.i == block.j:
        e_IJ.fill_diagonal_(0)
    if not weights.k1:
        return _Terms(e_IJ)
    extra_IJ = logit_IJ.mul_(-weights.tau).masked_fill_(~positive_IJ, -math.inf).exp_()
    return _Terms(e_IJ, extra_IJ, weights.k1, weights.tau)


def _by_sum(gradient_N: Tensor, d_N: Tensor) -> Tensor:
    """An empty sum has no gradient; 0 / 0 would be NaN."""
    return torch.where(d_N == 0, 0, gradient_N / d_N)
