"""Tuned Contrastive Learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.losses.blockwise import PairWeights
from tcl_train.losses.pair_loss import (
    LARGEST_WEIGHT,
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


def tcl_loss(z_ND: Tensor, y_N: Tensor, *, tau: float, k1: float, k2: float) -> Tensor:
    """Tuned Contrastive Learning loss of a batch.

    With unit rows, s_ij = z_i . z_j, P(i) the other rows with the label of row i, N(i) the rows
    with another label:

        l_i = -(1/|P(i)|) sum_{p in P(i)} log( e^{s_ip/tau} / D_i )
        D_i = sum_{p in P(i)} e^{s_ip/tau} + k1 sum_{p in P(i)} e^{-s_ip}
              + k2 sum_{n in N(i)} e^{s_in/tau}

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has.
    k1 strengthens the pull of hard positives beyond SupCon's, k2 the push of negatives;
    k1 = 0, k2 = 1 is SupCon's L_out. The k1 term carries no temperature, which is why useful
    values of k1 are large: at tau = 0.1 an easy positive weighs e^10 = 22,026.

    Source: Animesh and Chandraker 2023. Unlike the authors' code this cannot overflow, and
    anchors without positives are left out of the mean instead of giving NaN.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        tau: temperature, from 1e-6 to 1e6.
        k1: weight of the positives' extra term, from 0 to 1e30.
        k2: weight of the negatives, from 1e-30 to 1e30.

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    rows = sort_rows(normalize_rows(z_ND), y_N)
    log_d_N = log_denominator(rows, PairWeights(tau, k1=k1, negative=k2))
    pull_N = mean_positive_similarity(rows) / tau
    return mean_over_anchors(log_d_N - pull_N, rows.count_N)


class TCL(PairLoss):
    """:func:`tcl_loss` with checked hyper-parameters: 1e-6 <= tau <= 1e6, 0 <= k1 <= 1e30,
    1e-30 <= k2 <= 1e30.

    k1_warmup: the share of the run (0 to 1) over which k1 grows linearly from 0, see :meth:`at`; 0:
    never, as published. With few classes a large k1 pulls everything together at the start, where
    similarities are high, and the embeddings stay collapsed.
    """

    when_collapsed = (
        "let k1 grow (k1_warmup_epochs=1 or more) or lower k1, where there are few classes; or "
        "lower lr to a tenth"
    )

    def __init__(
        self, tau: float = 0.1, k1: float = 5000.0, k2: float = 1.0, k1_warmup: float = 0.0
    ) -> None:
        super().__init__()
        self.tau = check_temperature(tau)
        self.k1 = checks.number("k1", k1, at_least=0, at_most=LARGEST_WEIGHT)
        self.k2 = checks.number("k2", k2, at_least=1 / LARGEST_WEIGHT, at_most=LARGEST_WEIGHT)
        name = "k1_warmup (k1_warmup_epochs / epochs)"
        self.k1_warmup = checks.number(name, k1_warmup, at_least=0, at_most=1)

    def at(self, progress: float) -> TCL:
        if progress >= self.k1_warmup:
            return self
        return TCL(self.tau, self.k1 * progress / self.k1_warmup, self.k2)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return tcl_loss(z_ND, y_N, tau=self.tau, k1=self.k1, k2=self.k2)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        logit_NM = sim_NM / self.tau
        terms = [
            masked_logsumexp(logit_NM, positive_NM),
            masked_logsumexp(math.log(self.k2) + logit_NM, negative_NM),
        ]
        if self.k1 > 0:
            terms.append(masked_logsumexp(math.log(self.k1) - sim_NM, positive_NM))
        log_d_N = torch.stack(terms).logsumexp(0)
        return log_d_N - masked_mean(logit_NM, positive_NM)

    def extra_repr(self) -> str:
        warmup = f", k1_warmup={self.k1_warmup:g}" if self.k1_warmup else ""
        return f"tau={self.tau:g}, k1={self.k1:g}, k2={self.k2:g}{warmup}"
