"""What every loss over pairs of rows has in common.

N, M: rows of the batch; D: embedding dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.autograd import ClosedForm, first_derivative

SMALLEST_NORM = 1e-12
SMALLEST_TAU, LARGEST_TAU = 1e-6, 1e6  # beyond them float32 has no digits left
LARGEST_WEIGHT = 1e30


class PairLoss(nn.Module, ABC):
    """A loss over the rows of a batch, `loss(z_ND, y_N)`.

    unit_rows: whether rows are normalised, so that similarities are cosines.
    when_collapsed: what to change in the loss where all rows have become equal; empty: not known.
    """

    unit_rows = True
    when_collapsed = ""

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        check_rows(z_ND, y_N)
        return self.value(z_ND, y_N)

    def at(self, progress: float) -> PairLoss:  # noqa: ARG002
        """The loss at this share of the run, from 0 to 1, for losses that change in it."""
        return self

    def rows(self, z_ND: Tensor) -> Tensor:
        """The rows of which similarities are taken, in float32 or better."""
        return normalize_rows(z_ND)

    @abstractmethod
    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        """The loss of checked inputs."""

    @abstractmethod
    def anchor_losses(self, sim_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor) -> Tensor:
        """The equation itself, l_i for each row of a dense matrix of similarities: for reading, for
        tests, and for :func:`tcl_train.losses.gradient_response`. Rows without a positive may be
        anything; they do not count."""


def check_temperature(tau: float) -> float:
    return checks.number("tau", tau, at_least=SMALLEST_TAU, at_most=LARGEST_TAU)


def check_rows(z_ND: Tensor, y_N: Tensor, *, at_least: int = 2) -> None:
    """Raises TypeError or ValueError that names the argument, what it is, and what is right."""
    if z_ND.ndim != 2:
        raise ValueError(f"z must have shape (N, D), got {tuple(z_ND.shape)}")
    if not z_ND.is_floating_point():
        raise TypeError(f"z must have a floating-point dtype, got {z_ND.dtype}")
    if y_N.ndim != 1 or y_N.shape[0] != z_ND.shape[0]:
        raise ValueError(
            f"y must have shape (N,) with the N of z, here ({z_ND.shape[0]},), "
            f"got {tuple(y_N.shape)}"
        )
    if y_N.is_floating_point() or y_N.is_complex() or y_N.dtype == torch.bool:
        raise TypeError(f"y must have an integer dtype (int64), got {y_N.dtype}")
    if z_ND.shape[0] < at_least:
        raise ValueError(f"z must have at least {at_least} rows, got {z_ND.shape[0]}")


def at_least_float32(z_ND: Tensor) -> Tensor:
    """float64 stays; all else becomes float32. Half precision loses the difference between
    embeddings that are close, which is what these losses are about."""
    return z_ND if z_ND.dtype == torch.float64 else z_ND.float()


def normalize_rows(z_ND: Tensor) -> Tensor:
    """Rows of length 1, in float32 or better. A zero row stays zero and gets no gradient, where a
    division by a small number would give one that half precision cannot hold."""
    return _NormalizedRows.call(at_least_float32(z_ND))


class _NormalizedRows(ClosedForm):
    """In closed form, for autograd would hold several copies of the rows:

    u = z / |z|,    dl/dz = (dl/du - u (u . dl/du)) / |z|
    """

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor) -> Tensor:
        # The largest value comes first, so that no square overflows.
        largest_N1 = z_ND.abs().amax(1, keepdim=True)
        # Not for NaN, which must stay NaN.
        largest_N1.masked_fill_(largest_N1 <= SMALLEST_NORM, math.inf)
        unit_ND = z_ND / largest_N1
        norm_N1 = unit_ND.norm(dim=1, keepdim=True)
        norm_N1.masked_fill_(norm_N1 == 0, math.inf)
        # Not in place: torch 2.11's compiler gives a result that was written into no gradient.
        unit_ND = unit_ND / norm_N1
        norm_N1 *= largest_N1
        ctx.save_for_backward(unit_ND, norm_N1)
        return unit_ND

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient_ND: Tensor) -> Tensor:
        unit_ND, norm_N1 = ctx.saved_tensors
        along_N1 = row_products(unit_ND, gradient_ND)[:, None]
        return torch.addcmul(gradient_ND, unit_ND, along_N1, value=-1).div_(norm_N1)


def similarities(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Products of all rows of a with all rows of b (N, M), in the precision of the inputs,
    outside autocast."""
    with torch.autocast(a_ND.device.type, enabled=False):
        return a_ND @ b_MD.T


def row_products(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Products of each row of a with the same row of b (N,), in the precision of the
    inputs, outside autocast, and without an intermediate matrix."""
    with torch.autocast(a_ND.device.type, enabled=False):
        return torch.linalg.vecdot(a_ND, b_ND)


class SortedRows(NamedTuple):
    """A batch in the order of its labels; the mean over anchors does not depend on the order.

    group_N: ascending, a value a label. count_N: positives of each row, as a float.
    """

    z_ND: Tensor
    group_N: Tensor
    count_N: Tensor


def sort_rows(z_ND: Tensor, y_N: Tensor) -> SortedRows:
    y_N, order_N = y_N.sort(stable=True)
    starts_N = torch.zeros_like(y_N)
    starts_N[1:] = y_N[1:] != y_N[:-1]
    group_N = starts_N.cumsum(0)
    size_K = z_ND.new_zeros(len(y_N)).index_add_(0, group_N, z_ND.new_ones(len(y_N)))
    return SortedRows(z_ND.index_select(0, order_N), group_N, size_K[group_N] - 1)


def mean_positive_similarity(rows: SortedRows) -> Tensor:
    """Per row, the mean similarity with its positives, 0 without any. Taken from the sums over
    groups, so the cost is linear in N:  sum_p s_ip = z_i . (sum of its group - z_i)."""
    sum_KD = torch.zeros_like(rows.z_ND).index_add(0, rows.group_N, rows.z_ND)
    with_itself_N = row_products(rows.z_ND, sum_KD.index_select(0, rows.group_N))
    total_N = with_itself_N - row_products(rows.z_ND, rows.z_ND)
    # Without positives what is left of the sum is rounding.
    return torch.where(rows.count_N > 0, total_N / rows.count_N.clamp(min=1), 0 * total_N)


def mean_over_anchors(loss_N: Tensor, count_N: Tensor) -> Tensor:
    """The mean over the anchors that have a positive; 0, with gradient 0, where none has.

    Anchors without positives are left out, neither counted as zeros nor divided by zero; but a NaN
    of theirs is not hidden."""
    has_N = count_N > 0
    return torch.where(has_N | loss_N.isnan(), loss_N, 0).sum() / has_N.sum().clamp(min=1)


# ------------------------------------------------------------------ dense, for equations


class Pairs(NamedTuple):
    """Similarities of all pairs of rows, and which pairs belong together."""

    sim_NM: Tensor
    positive_NM: Tensor  # same label, not the row itself
    negative_NM: Tensor  # another label


def dense_pairs(rows_ND: Tensor, y_N: Tensor) -> Pairs:
    """The whole matrix at once, of rows as they are."""
    same_NM = y_N[:, None] == y_N[None, :]
    itself_NM = torch.eye(len(y_N), dtype=torch.bool, device=rows_ND.device)
    return Pairs(similarities(rows_ND, rows_ND), same_NM & ~itself_NM, ~same_NM)


def masked_mean(value_NM: Tensor, mask_NM: Tensor) -> Tensor:
    """Per row, the mean over the masked places; 0 where there are none."""
    return torch.where(mask_NM, value_NM, 0).sum(1) / mask_NM.sum(1).clamp(min=1)


def masked_logsumexp(value_NM: Tensor, mask_NM: Tensor) -> Tensor:
    """Per row, log sum exp over the masked places."""
    return value_NM.masked_fill(~mask_NM, float("-inf")).logsumexp(1)
