"""Directions to which views are assigned, and what assignments say of collapse.

N, B: rows; K: prototypes; D: embedding dimensions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.losses.pair_loss import normalize_rows, similarities


class Prototypes(nn.Module):
    """Cosines of rows with `count` learned directions."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        checks.integer("prototypes", count, at_least=2)
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim)))

    def forward(self, z_ND: Tensor) -> Tensor:
        unit_ND = normalize_rows(z_ND)
        return similarities(unit_ND, normalize_rows(self.weight.to(unit_ND.dtype)))


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
