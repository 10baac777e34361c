"""How features lie in space, without labels.

N: rows; D: dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RANKME_EPSILON = 1e-7
CHUNK = 2048


@torch.no_grad()
def rankme(x_ND: Tensor) -> float:
    """The effective rank of the rows, from 1 to min(N, D): exp of the entropy of the singular
    values, each divided by their sum, plus 1e-7. Rows are neither centred nor normalised.

    It compares runs of one method only. Source: Garrido et al. 2023, equation 1, there of 25,600
    rows.
    """
    singular = torch.linalg.svdvals(x_ND.float())
    share = singular / singular.sum() + RANKME_EPSILON
    return (-(share * share.log()).sum()).exp().item()


@torch.no_grad()
def uniformity(x_ND: Tensor) -> float:
    """log of the mean of e^{-2 |u - v|^2} over all pairs of different normalised rows; 0 where all
    are equal, lower the more evenly they are spread. Source: Wang and Isola 2020, equation 4."""
    unit_ND = F.normalize(x_ND.float())
    n = len(unit_ND)
    total = sum((4 * (part @ unit_ND.T) - 4).exp().sum() for part in unit_ND.split(CHUNK))
    itself = (4 * unit_ND.square().sum(1) - 4).exp().sum()  # a zero row has no length
    return ((total - itself) / (n * (n - 1))).log().item()
