"""The parts that the softmax losses share, in their plain dense form: the whole N x N similarity
matrix at once, differentiated by autograd.

N, M: rows of the batch; D: embedding dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MINUS_INFINITY = float("-inf")


class Pairs(NamedTuple):
    """Cosine similarities of all pairs of rows, and which pairs belong together."""

    sim_NM: Tensor
    positive_NM: Tensor  # same label, not the row itself
    negative_NM: Tensor  # another label


def pairs(z_ND: Tensor, y_N: Tensor) -> Pairs:
    """Normalises the rows and multiplies them, in float32 (float64 for float64 input) whatever
    the input type and whatever autocast says: half precision loses the difference between
    embeddings that are close, which is what these losses are about."""
    with torch.autocast(z_ND.device.type, enabled=False):
        unit_ND = F.normalize(z_ND.double() if z_ND.dtype == torch.float64 else z_ND.float())
        sim_NM = unit_ND @ unit_ND.T
    same_NM = y_N[:, None] == y_N[None, :]
    itself_NM = torch.eye(len(y_N), dtype=torch.bool, device=z_ND.device)
    return Pairs(sim_NM, same_NM & ~itself_NM, ~same_NM)


def mean_over_positives(value_NM: Tensor, positive_NM: Tensor) -> Tensor:
    """Per anchor, the mean of a value over its positives; 0 for an anchor without any."""
    total_N = torch.where(positive_NM, value_NM, 0).sum(1)
    return total_N / positive_NM.sum(1).clamp(min=1)


def mean_over_anchors(loss_N: Tensor, positive_NM: Tensor) -> Tensor:
    """The mean over the anchors that have a positive. Without any such anchor: 0, with gradient 0.

    Anchors without positives are left out, neither counted as zeros nor divided by zero."""
    counts_N = positive_NM.any(1)
    return torch.where(counts_N, loss_N, 0).sum() / counts_N.sum().clamp(min=1)
