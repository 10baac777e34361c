"""Tuned Contrastive Learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.losses import dense
from tcl_train.losses.inputs import check_rows


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

    Source: Animesh and Chandraker 2023. Unlike the authors' code, D_i is a log-sum-exp with
    log k1 - s_ip and log k2 + s_in/tau among its logits, so that nothing overflows, and anchors
    without positives are left out instead of giving NaN.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        tau: temperature, > 0.
        k1: weight of the positives' extra term, >= 0.
        k2: weight of the negatives, > 0.
    """
    sim_NM, positive_NM, negative_NM = dense.pairs(z_ND, y_N)
    logit_NM = sim_NM / tau
    pull_N = dense.mean_over_positives(logit_NM, positive_NM)
    attraction_NM = logit_NM + (math.log(k2) * negative_NM)
    terms = [attraction_NM.masked_fill(~(positive_NM | negative_NM), dense.MINUS_INFINITY)]
    if k1 > 0:
        extra_NM = math.log(k1) - sim_NM
        terms.append(extra_NM.masked_fill(~positive_NM, dense.MINUS_INFINITY))
    log_denominator_N = torch.cat(terms, 1).logsumexp(1)
    return dense.mean_over_anchors(log_denominator_N - pull_N, positive_NM)


class TCL(nn.Module):
    """:func:`tcl_loss` with checked hyper-parameters: tau > 0, k1 >= 0, k2 > 0."""

    def __init__(self, tau: float = 0.1, k1: float = 5000.0, k2: float = 1.0) -> None:
        super().__init__()
        self.tau = checks.number("tau", tau, above=0)
        self.k1 = checks.number("k1", k1, at_least=0)
        self.k2 = checks.number("k2", k2, above=0)

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        check_rows(z_ND, y_N)
        return tcl_loss(z_ND, y_N, tau=self.tau, k1=self.k1, k2=self.k2)

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}, k1={self.k1:g}, k2={self.k2:g}"
