"""The simple contrastive loss, and its hard form."""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.losses.negatives import hardest_weights
from tcl_train.losses.pair_loss import (
    PairLoss,
    SortedRows,
    masked_mean,
    mean_over_anchors,
    mean_positive_similarity,
    normalize_rows,
    row_products,
    similarities,
    sort_rows,
)

LARGEST_LAM = 1e6


def simple_contrastive_loss(
    z_ND: Tensor, y_N: Tensor, *, lam: float, alpha: float | None = None
) -> Tensor:
    """A contrastive loss that is linear in the similarities, so that it pushes all negatives alike.

    With unit rows, s_ij = z_i . z_j, and j(i) the one other row with the value of row i:

        l_i = -s_ij(i) + lam sum_{n in N(i)} s_in

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has. With more
    than one positive -s is averaged over them. With `alpha`, the hard form, N(i) is cut to the
    share `alpha` of the negatives with the largest similarity (at least one); the cut itself is
    not differentiated.

    Source: Wang and Liu 2021, equations 6 (simple) and 9 (hard simple).

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; equal values are positives of each other.
        lam: weight of the negatives, > 0, at most 1e6.
        alpha: share of the negatives that is kept, in (0, 1); None keeps all.

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    rows = sort_rows(normalize_rows(z_ND), y_N)
    push_N = _sum_of_negatives(rows) if alpha is None else _sum_of_hard_negatives(rows, alpha)
    return mean_over_anchors(lam * push_N - mean_positive_similarity(rows), rows.count_N)


def _sum_of_negatives(rows: SortedRows) -> Tensor:
    """Linear in N: the sum over all rows less the sum over the row's group."""
    sum_KD = torch.zeros_like(rows.z_ND).index_add(0, rows.group_N, rows.z_ND)
    others_ND = rows.z_ND.sum(0) - sum_KD.index_select(0, rows.group_N)
    total_N = row_products(rows.z_ND, others_ND)
    # Without negatives what is left of the sums is rounding.
    return torch.where(rows.count_N < len(rows.count_N) - 1, total_N, 0 * total_N)


def _sum_of_hard_negatives(rows: SortedRows, alpha: float) -> Tensor:
    negative_NM = rows.group_N[:, None] != rows.group_N
    return _sum_of_hard(similarities(rows.z_ND, rows.z_ND), negative_NM, alpha)


def _sum_of_hard(sim_NM: Tensor, negative_NM: Tensor, alpha: float) -> Tensor:
    return (hardest_weights(sim_NM, negative_NM, alpha) * sim_NM).sum(1)


class SimpleContrastive(PairLoss):
    """:func:`simple_contrastive_loss` with checked hyper-parameters: 0 < lam <= 1e6,
    0 < alpha < 1."""

    def __init__(self, lam: float = 0.01, alpha: float | None = None) -> None:
        super().__init__()
        self.lam = checks.number("lam", lam, above=0, at_most=LARGEST_LAM)
        self.alpha = None if alpha is None else checks.number("alpha", alpha, above=0, below=1)

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return simple_contrastive_loss(z_ND, y_N, lam=self.lam, alpha=self.alpha)

    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        if self.alpha is None:
            push_N = torch.where(negative_NM, sim_NM, 0).sum(1)
        else:
            push_N = _sum_of_hard(sim_NM, negative_NM, self.alpha)
        return self.lam * push_N - masked_mean(sim_NM, positive_NM)

    def extra_repr(self) -> str:
        return f"lam={self.lam:g}, alpha={self.alpha}"
