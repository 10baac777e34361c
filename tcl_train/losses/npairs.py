"""The N-pairs loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcl_train.losses.blockwise import PairWeights
from tcl_train.losses.pair_loss import (
    PairLoss,
    at_least_float32,
    masked_logsumexp,
    masked_mean,
    mean_over_anchors,
    mean_positive_similarity,
    sort_rows,
)
from tcl_train.losses.softmax import log_denominator

LONGEST_ROW = {torch.float32: 1e15, torch.float64: 1e100}


def npairs_loss(z_ND: Tensor, y_N: Tensor) -> Tensor:
    """N-pairs loss of a batch: L_out without temperature, on rows as they are.

    With s_ij = z_i . z_j, rows not normalised, and j(i) the one other row with the label of i:

        l_i = -log( e^{s_ij(i)} / sum_{a != i} e^{s_ia} )

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has. With more
    than one positive l_i is averaged over them. Rows with a value beyond 1e15 / sqrt(D) in float32,
    1e100 / sqrt(D) in float64, are shortened to it, so that no product overflows.

    Source: Sohn 2016, section 3. The paper adds a penalty on the length of the rows, which here is
    left to weight decay.

    Args:
        z_ND: embeddings, any float dtype.
        y_N: int64; equal values are positives of each other.

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    rows = sort_rows(_shortened(z_ND), y_N)
    log_d_N = log_denominator(rows, PairWeights(1.0), unit_rows=False)
    return mean_over_anchors(log_d_N - mean_positive_similarity(rows), rows.count_N)


def _shortened(z_ND: Tensor) -> Tensor:
    z_ND = at_least_float32(z_ND)
    largest = LONGEST_ROW[z_ND.dtype] / math.sqrt(z_ND.shape[1])
    with torch.no_grad():
        factor_N1 = (largest / z_ND.abs().amax(1, keepdim=True)).clamp(max=1)
    return z_ND * factor_N1


class NPairs(PairLoss):
    """:func:`npairs_loss`; it has no hyper-parameters."""

    unit_rows = False
    when_collapsed = "lower lr to a tenth"

    def rows(self, z_ND: Tensor) -> Tensor:
        return _shortened(z_ND)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return npairs_loss(z_ND, y_N)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        log_d_N = masked_logsumexp(sim_NM, positive_NM | negative_NM)
        return log_d_N - masked_mean(sim_NM, positive_NM)
