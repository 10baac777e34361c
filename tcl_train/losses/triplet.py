"""The triplet loss, over all triplets of a batch.

N, M: rows of the batch; P: places in the order of an anchor's negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.losses.pair_loss import PairLoss, dense_pairs, mean_over_anchors, normalize_rows


def triplet_loss(z_ND: Tensor, y_N: Tensor, *, margin: float) -> Tensor:
    """Triplet loss of a batch, over every positive and every negative of each anchor.

    With unit rows:

        l_i = mean over p in P(i), n in N(i) of max(0, |z_i - z_p|^2 - |z_i - z_n|^2 + margin)

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has, and l_i is
    0 for an anchor without negatives. For unit rows the difference of the squared distances is
    2 (s_in - s_ip).

    Source: Schroff et al. 2015, equation 2; the limit of L_out with one positive and one negative
    (Khosla et al. 2020, section 3). The mean includes triplets with loss 0. The whole matrix of
    similarities is in memory.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        margin: by how much a negative must be farther than a positive, >= 0, of at most 4.

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    pairs = dense_pairs(normalize_rows(z_ND), y_N)
    loss_N = _mean_over_triplets(*pairs, margin)
    return mean_over_anchors(loss_N, pairs.positive_NM.sum(1))


def _mean_over_triplets(
    sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor, margin: float
) -> Tensor:
    """Sorting an anchor's negatives makes the sum over them for a positive a look-up: with
    t_p = s_ip - margin/2,  sum_n max(0, s_in - t_p)  is the sum of the c_p negatives above t_p,
    less c_p t_p."""
    hardest_NP = sim_NM.masked_fill(~negative_NM, float("-inf")).sort(1, descending=True).values
    finite_NP = hardest_NP > float("-inf")
    # NaN is neither above nor below; it stays in the sums.
    kept_NP = torch.where(finite_NP | hardest_NP.isnan(), hardest_NP, 0)
    prefix_NP = torch.cat([torch.zeros_like(kept_NP[:, :1]), kept_NP.cumsum(1)], 1)
    threshold_NM = sim_NM - margin / 2
    with torch.no_grad():
        # Ascending order of -s: how many negatives are above each threshold.
        above_NM = torch.searchsorted(-hardest_NP, -threshold_NM)
    total_NM = prefix_NP.gather(1, above_NM) - above_NM * threshold_NM
    total_N = torch.where(positive_NM | total_NM.isnan(), total_NM, 0).sum(1)
    triplets_N = positive_NM.sum(1) * negative_NM.sum(1)
    return 2 * total_N / triplets_N.clamp(min=1)


class Triplet(PairLoss):
    """:func:`triplet_loss` with a checked margin, in [0, 4]."""

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = checks.number("margin", margin, at_least=0, at_most=4)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return triplet_loss(z_ND, y_N, margin=self.margin)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        return _mean_over_triplets(sim_NM, positive_NM, negative_NM, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}"
