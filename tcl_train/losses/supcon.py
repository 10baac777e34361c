"""Supervised contrastive loss, L_out and L_in."""

from __future__ import annotations

from torch import Tensor

from tcl_train import checks
from tcl_train.losses.blockwise import PairWeights
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

FORMS = ("out", "in")


def supcon_loss(z_ND: Tensor, y_N: Tensor, *, tau: float, form: str = "out") -> Tensor:
    """Supervised contrastive loss of a batch.

    With unit rows, s_ij = z_i . z_j, P(i) the other rows with the label of row i:

        L_out: l_i = -(1/|P(i)|) sum_{p in P(i)} log( e^{s_ip/tau} / sum_{a != i} e^{s_ia/tau} )
        L_in:  l_i = -log( (1/|P(i)|) sum_{p in P(i)} e^{s_ip/tau} / sum_{a != i} e^{s_ia/tau} )

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has.
    L_in <= L_out, by Jensen's inequality.

    Source: Khosla et al. 2020, equations 2 (out) and 3 (in). Unlike the authors' code there is no
    factor tau / base_tau, and anchors without positives are left out of the mean instead of
    being counted as zeros.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        tau: temperature, from 1e-6 to 1e6.
        form: "out" or "in".

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    rows = sort_rows(normalize_rows(z_ND), y_N)
    log_d_N = log_denominator(rows, PairWeights(tau))
    if form == "out":
        pull_N = mean_positive_similarity(rows) / tau
    else:
        pull_N = (
            log_denominator(rows, PairWeights(tau, negative=0.0)) - rows.count_N.clamp(min=1).log()
        )
    return mean_over_anchors(log_d_N - pull_N, rows.count_N)


class SupCon(PairLoss):
    """:func:`supcon_loss` with checked hyper-parameters: 1e-6 <= tau <= 1e6, form "out" or "in"."""

    def __init__(self, tau: float = 0.1, form: str = "out") -> None:
        super().__init__()
        self.tau = check_temperature(tau)
        self.form = checks.one_of("form", form, FORMS)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return supcon_loss(z_ND, y_N, tau=self.tau, form=self.form)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        logit_NM = sim_NM / self.tau
        log_d_N = masked_logsumexp(logit_NM, positive_NM | negative_NM)
        if self.form == "out":
            return log_d_N - masked_mean(logit_NM, positive_NM)
        count_N = positive_NM.sum(1).to(sim_NM.dtype)
        return log_d_N - masked_logsumexp(logit_NM, positive_NM) + count_N.log()

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}, form={self.form!r}"
