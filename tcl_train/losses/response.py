"""Gradient magnitudes of a loss by its positives and by its negatives.

N, M: rows of the batch; I: rows of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.losses.pair_loss import PairLoss, similarities

MOST_PAIRS = 2**20  # in one block


class GradientResponse(NamedTuple):
    """Mean magnitude of the gradient by the similarity, over all pairs of an anchor with one of
    its positives and with one of its negatives; NaN where there is no such pair."""

    positive: Tensor
    negative: Tensor


def gradient_response(loss: PairLoss, z_ND: Tensor, y_N: Tensor) -> GradientResponse:
    """The mean of |dl_i/ds_ip| over anchors and their positives, and of |dl_i/ds_in| over anchors
    and their negatives, each anchor's own loss l_i by its own similarities.

    For TCL, with P_ij = e^{s_ij/tau} / D_i:

        dl_i/ds_ip = (P_ip - 1/|P(i)|) / tau - k1 e^{-s_ip} / D_i
        dl_i/ds_in = k2 P_in / tau

    Anchors without positives are left out. Memory does not grow with N squared.

    Source: the gradient lemmas of Animesh and Chandraker 2023, who plot both over training.
    """
    with torch.no_grad():
        z_ND = loss.rows(z_ND)
        sums = z_ND.new_zeros(4)
        block = max(1, MOST_PAIRS // len(z_ND))
        for i in range(0, len(z_ND), block):
            sums += _block_sums(loss, z_ND, y_N, i, min(i + block, len(z_ND)))
    return GradientResponse(sums[0] / sums[1], sums[2] / sums[3])


def _block_sums(loss: PairLoss, z_ND: Tensor, y_N: Tensor, i: int, i_end: int) -> Tensor:
    """Sum of magnitudes and count of pairs, for positives and then for negatives."""
    sim_IM = similarities(z_ND[i:i_end], z_ND)
    same_IM = y_N[i:i_end, None] == y_N
    place_M = torch.arange(len(y_N), device=y_N.device)
    positive_IM = same_IM & (place_M[i:i_end, None] != place_M)
    has_I1 = positive_IM.any(1, keepdim=True)
    with torch.enable_grad():
        sim_IM.requires_grad_()
        loss_I = loss.anchor_losses(sim_IM, positive_IM, ~same_IM)
        total = torch.where(has_I1[:, 0], loss_I, 0).sum()
        (slope_IM,) = torch.autograd.grad(total, sim_IM)
    sums = []
    for mask_IM in (positive_IM, ~same_IM & has_I1):
        sums += [torch.where(mask_IM, slope_IM.abs(), 0).sum(), mask_IM.sum()]
    return torch.stack([value.to(slope_IM.dtype) for value in sums])
