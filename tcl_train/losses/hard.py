"""The hard contrastive loss."""

from __future__ import annotations

from torch import Tensor

from tcl_train import checks
from tcl_train.losses.blockwise import PairWeights
from tcl_train.losses.negatives import hardest_negatives, hardest_weights
from tcl_train.losses.pair_loss import (
    PairLoss,
    check_temperature,
    masked_logsumexp,
    masked_mean,
    mean_over_anchors,
    mean_positive_similarity,
    normalize_rows,
    sort_rows,
)
from tcl_train.losses.softmax import log_denominator


def hard_contrastive_loss(z_ND: Tensor, y_N: Tensor, *, tau: float, alpha: float) -> Tensor:
    """NT-Xent against the hardest negatives only.

    With unit rows, s_ij = z_i . z_j, and H(i) the share `alpha` of the negatives of row i with the
    largest similarity (at least one; where similarities tie, each counts in part):

        l_i = -log( e^{s_ij(i)/tau} / ( e^{s_ij(i)/tau} + sum_{n in H(i)} e^{s_in/tau} ) )

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has. With more
    than one positive all are in the denominator and l_i is averaged over them. The cut itself is
    not differentiated.

    Source: Wang and Liu 2021, equation 8.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        tau: temperature, from 1e-6 to 1e6.
        alpha: share of the negatives that is kept, in (0, 1).

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    rows = sort_rows(normalize_rows(z_ND), y_N)
    log_d_N = log_denominator(rows, PairWeights(tau), hardest=hardest_negatives(rows, alpha))
    pull_N = mean_positive_similarity(rows) / tau
    return mean_over_anchors(log_d_N - pull_N, rows.count_N)


class HardContrastive(PairLoss):
    """:func:`hard_contrastive_loss` with checked hyper-parameters: 1e-6 <= tau <= 1e6,
    0 < alpha < 1."""

    when_collapsed = "lower lr to a tenth"

    def __init__(self, tau: float = 0.5, alpha: float = 0.3) -> None:
        super().__init__()
        self.tau = check_temperature(tau)
        self.alpha = checks.number("alpha", alpha, above=0, below=1)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return hard_contrastive_loss(z_ND, y_N, tau=self.tau, alpha=self.alpha)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        logit_NM = sim_NM / self.tau
        weight_NM = hardest_weights(sim_NM, negative_NM, self.alpha) + positive_NM.to(sim_NM.dtype)
        log_d_N = masked_logsumexp(logit_NM + weight_NM.log(), weight_NM > 0)
        return log_d_N - masked_mean(logit_NM, positive_NM)

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}, alpha={self.alpha:g}"
