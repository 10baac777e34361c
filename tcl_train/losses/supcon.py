"""Supervised contrastive loss, L_out and L_in."""

from __future__ import annotations

from torch import Tensor, nn

from tcl_train import checks
from tcl_train.losses import dense
from tcl_train.losses.inputs import check_rows

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
        tau: temperature, > 0.
        form: "out" or "in".
    """
    sim_NM, positive_NM, negative_NM = dense.pairs(z_ND, y_N)
    logit_NM = sim_NM / tau
    other_NM = positive_NM | negative_NM
    log_denominator_N = logit_NM.masked_fill(~other_NM, dense.MINUS_INFINITY).logsumexp(1)
    if form == "out":
        pull_N = dense.mean_over_positives(logit_NM, positive_NM)
    else:
        # An anchor without positives would be log 0; its row is left out of the mean below.
        has_N = positive_NM.any(1, keepdim=True)
        kept_NM = positive_NM | ~has_N
        count_N = positive_NM.sum(1).clamp(min=1)
        pull_N = logit_NM.masked_fill(~kept_NM, dense.MINUS_INFINITY).logsumexp(1) - count_N.log()
    return dense.mean_over_anchors(log_denominator_N - pull_N, positive_NM)


class SupCon(nn.Module):
    """:func:`supcon_loss` with checked hyper-parameters: tau > 0, form "out" or "in"."""

    def __init__(self, tau: float = 0.1, form: str = "out") -> None:
        super().__init__()
        self.tau = checks.number("tau", tau, above=0)
        self.form = checks.one_of("form", form, FORMS)

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        check_rows(z_ND, y_N)
        return supcon_loss(z_ND, y_N, tau=self.tau, form=self.form)

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}, form={self.form!r}"
