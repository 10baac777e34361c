"""Anchors against any candidates: rows gathered from other processes, or a memory queue; with a
running maximum, for any temperature and rows of any length.

N: anchors; M: candidates; D: embedding dimensions; I, J: rows and columns of a block.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcl_train.autograd import ClosedForm, first_derivative
from tcl_train.losses.blockwise.sharing import WorkShare, current_share
from tcl_train.losses.blockwise.tiles import (
    Hardest,
    PairWeights,
    Tile,
    log_weight,
    select_number,
    tile_for,
)
from tcl_train.losses.uncompiled import uncompiled


@uncompiled
def rectangular_log_denominator(
    anchor_ND: Tensor,
    candidate_MD: Tensor,
    positive_N: Tensor,
    positive_M: Tensor,
    weights: PairWeights,
    *,
    own_N: Tensor | None = None,
    hardest: Hardest | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """log D of each anchor against candidates, (N,); -inf where there is nothing to sum.

    Args:
        anchor_ND, candidate_MD: rows of any length, float32 or float64.
        positive_N, positive_M: int64; a pair with equal values is a positive pair.
        weights: any.
        own_N: the index of each anchor among the candidates, which is left out; -1 where it is
            not among them; None where no anchor is.
        hardest: which negatives of each anchor count; None: all.
        tile: the largest block; None chooses for the device.
    """
    if own_N is None:
        own_N = torch.full_like(positive_N, -1)
    floor_N, share_N = (None, None) if hardest is None else hardest
    with torch.autocast(anchor_ND.device.type, enabled=False):
        return _Rectangular.call(
            anchor_ND,
            candidate_MD,
            positive_N,
            positive_M,
            own_N,
            floor_N,
            share_N,
            weights,
            tile or tile_for(anchor_ND.device),
        )


class _Logits(NamedTuple):
    """The logarithms of the terms of D in a block; -inf where there is none."""

    attraction_IJ: Tensor
    extra_IJ: Tensor | None  # of the k1 terms


def _logits(
    a_ID: Tensor,
    b_JD: Tensor,
    labels: tuple[Tensor, Tensor],
    own_I: Tensor,
    hardest: Hardest | None,
    j: int,
    weights: PairWeights,
) -> _Logits:
    sim_IJ = a_ID @ b_JD.T
    positive_IJ = labels[0][:, None] == labels[1]
    place_J = torch.arange(j, j + len(b_JD), device=sim_IJ.device)
    left_out_IJ = own_I[:, None] == place_J
    extra_IJ = None
    if weights.k1:
        extra_IJ = (math.log(weights.k1) - sim_IJ).masked_fill_(
            ~positive_IJ | left_out_IJ, -math.inf
        )
    log_weight_IJ = select_number(positive_IJ, 0.0, log_weight(weights.negative), sim_IJ)
    if hardest is not None:
        floor_I, share_I = hardest
        left_out_IJ |= ~positive_IJ & (sim_IJ < Hardest.below(floor_I)[:, None])
        tied_IJ = ~positive_IJ & (sim_IJ <= Hardest.above(floor_I)[:, None])
        log_weight_IJ += torch.where(tied_IJ, share_I.log()[:, None], 0)
    attraction_IJ = sim_IJ.div_(weights.tau).add_(log_weight_IJ)
    return _Logits(attraction_IJ.masked_fill_(left_out_IJ, -math.inf), extra_IJ)


def _rows_of(floor_N: Tensor | None, share_N: Tensor | None, rows: slice) -> Hardest | None:
    if floor_N is None or share_N is None:
        return None
    return Hardest(floor_N[rows], share_N[rows])


class _Rectangular(ClosedForm):
    @staticmethod
    def forward(
        ctx: Any,
        a_ND: Tensor,
        b_MD: Tensor,
        label_N: Tensor,
        label_M: Tensor,
        own_N: Tensor,
        floor_N: Tensor | None,
        share_N: Tensor | None,
        weights: PairWeights,
        tile: Tile,
    ) -> Tensor:
        log_d_N = a_ND.new_zeros(len(a_ND))
        share = current_share() if len(a_ND) > tile.rows else WorkShare()
        for place, i in enumerate(range(0, len(a_ND), tile.rows)):
            if not share.takes(place):
                continue
            rows = slice(i, i + tile.rows)
            hardest = _rows_of(floor_N, share_N, rows)
            log_d_I = a_ND.new_full((len(a_ND[rows]),), -math.inf)
            for j in range(0, len(b_MD), tile.columns):
                columns = slice(j, j + tile.columns)
                labels = (label_N[rows], label_M[columns])
                logits = _logits(
                    a_ND[rows], b_MD[columns], labels, own_N[rows], hardest, j, weights
                )
                log_d_I = torch.logaddexp(log_d_I, logits.attraction_IJ.logsumexp(1))
                if logits.extra_IJ is not None:
                    log_d_I = torch.logaddexp(log_d_I, logits.extra_IJ.logsumexp(1))
            log_d_N[rows] = log_d_I
        share.add_up([log_d_N])
        ctx.save_for_backward(a_ND, b_MD, label_N, label_M, own_N, floor_N, share_N, log_d_N)
        ctx.weights, ctx.tile, ctx.share = weights, tile, share
        return log_d_N

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        a_ND, b_MD, label_N, label_M, own_N, floor_N, share_N, log_d_N = ctx.saved_tensors
        weights, tile = ctx.weights, ctx.tile
        d_a_ND, d_b_MD = torch.zeros_like(a_ND), torch.zeros_like(b_MD)
        # -inf minus -inf would be NaN; an empty sum has no gradient.
        log_d_N = torch.where(log_d_N == -math.inf, math.inf, log_d_N)
        with torch.autocast(a_ND.device.type, enabled=False):
            for place, i in enumerate(range(0, len(a_ND), tile.rows)):
                if not ctx.share.takes(place):
                    continue
                rows = slice(i, i + tile.rows)
                hardest = _rows_of(floor_N, share_N, rows)
                for j in range(0, len(b_MD), tile.columns):
                    columns = slice(j, j + tile.columns)
                    labels = (label_N[rows], label_M[columns])
                    logits = _logits(
                        a_ND[rows], b_MD[columns], labels, own_N[rows], hardest, j, weights
                    )
                    log_d_I1 = log_d_N[rows, None]
                    h_IJ = (logits.attraction_IJ - log_d_I1).exp_().div_(weights.tau)
                    if logits.extra_IJ is not None:
                        h_IJ -= (logits.extra_IJ - log_d_I1).exp_()
                    h_IJ *= gradient_N[rows, None]
                    d_a_ND[rows].addmm_(h_IJ, b_MD[columns])
                    d_b_MD[columns].addmm_(h_IJ.T, a_ND[rows])
        ctx.share.add_up([d_a_ND, d_b_MD])
        return d_a_ND, d_b_MD, None, None, None, None, None, None, None
