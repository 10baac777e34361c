"""Directions to which views are assigned, and what assignments say of collapse.

N, B: rows; V, W: views; K: prototypes; D: embedding dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.losses.pair_loss import check_temperature, normalize_rows, similarities
from tcl_train.methods.method import StepOutput
from tcl_train.methods.self_supervised import SelfSupervised, mean_over_pairs


class Prototypes(nn.Module):
    """Cosines of rows with `count` learned directions."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        checks.integer("prototypes", count, at_least=2)
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim)))

    def forward(self, z_ND: Tensor) -> Tensor:
        unit_ND = normalize_rows(z_ND)
        return similarities(unit_ND, normalize_rows(self.weight.to(unit_ND.dtype)))


class WithPrototypes(SelfSupervised):
    """encoder -> projector -> cosines with prototypes, from which views predict each other's shares
    of them.

    Args:
        prototypes: how many.
        tau: temperature of the prediction.
        frozen_until: until which share of the run the prototypes stay as they are.
    """

    def __init__(self, *, prototypes: int, tau: float, frozen_until: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.tau = check_temperature(tau)
        self.frozen_until = checks.number("frozen_until", frozen_until, at_least=0, at_most=1)
        self.prototypes = Prototypes(prototypes, self.projection_dim())

    def prediction_loss(self, score_VBK: Tensor, share_WBK: Tensor | Sequence[Tensor]) -> Tensor:
        """-sum_k share_k log softmax(score / tau)_k, the mean over images and pairs of different
        views; the shares are those of the first of the views."""
        return mean_over_pairs(
            lambda score_BK, share_BK: cross_entropies(share_BK, score_BK / self.tau),
            score_VBK,
            share_WBK,
        )

    def chance_level(self, step: StepOutput) -> Tensor:
        """ln K, of views that predict all prototypes alike."""
        return step.loss.new_tensor(math.log(len(self.prototypes.weight)))

    def before_update(self, progress: float) -> None:
        if progress < self.frozen_until:
            self.prototypes.weight.grad = None


def cross_entropies(target_BK: Tensor, logit_BK: Tensor) -> Tensor:
    """Mean over rows of -sum_k target_k log softmax(logit)_k."""
    return -(target_BK * logit_BK.log_softmax(1)).sum(1).mean()


@torch.no_grad()
def assignment_information(share_NK: Tensor) -> Tensor:
    """How much the rows' shares of the prototypes tell them apart, as a share of the most that they
    could: H(mean share) - mean H(share), over log K. 0 when all rows have the same shares, be they
    even or of one prototype."""
    mean_K = share_NK.mean(0)
    own = torch.special.entr(share_NK).sum(1).mean()
    return (torch.special.entr(mean_K).sum() - own) / math.log(len(mean_K))
