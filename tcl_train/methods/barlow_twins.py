"""Barlow Twins: dimensions agree between views and say different things.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from tcl_train import checks
from tcl_train.losses.pair_loss import at_least_float32, similarities
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view
from tcl_train.methods.self_supervised import SelfSupervised

SMALLEST_VARIANCE = 1e-5


def barlow_twins_loss(one_BD: Tensor, other_BD: Tensor, *, lam: float) -> Tensor:
    """With each dimension standardised over the batch, and C = one^T other / B,

        sum_i (1 - C_ii)^2 + lam sum_i sum_{j != i} C_ij^2

    Source: Zbontar et al. 2021, equations 1 and 2.
    """
    c_DD = similarities(_standardised(one_BD).T, _standardised(other_BD).T) / len(one_BD)
    diagonal_D = c_DD.diagonal()
    others = c_DD.square().sum() - diagonal_D.square().sum()
    return (1 - diagonal_D).square().sum() + lam * others


def _standardised(z_BD: Tensor) -> Tensor:
    var_D, mean_D = torch.var_mean(z_BD, 0, correction=0)
    return (z_BD - mean_D) * (var_D + SMALLEST_VARIANCE).rsqrt()


class BarlowTwins(SelfSupervised):
    """:func:`barlow_twins_loss` of the projections, the mean over all pairs of views, times
    `scale`.

    Args:
        lam: weight of the redundancy between dimensions.
        scale: factor of the whole loss, which is large: it sums over dimensions.
    """

    def __init__(self, *, lam: float = 0.005, scale: float = 0.1, **parts: Any) -> None:
        super().__init__(**parts)
        self.lam = checks.number("lam", lam, at_least=0)
        self.scale = checks.number("scale", scale, above=0)

    def embed(self, views: Views) -> Embeddings:
        return {"z_ND": self.project(views)}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            z_VBD = by_view(at_least_float32(z_ND), b)
            pairs = combinations(z_VBD, 2)
            losses = [
                barlow_twins_loss(one_BD, other_BD, lam=self.lam) for one_BD, other_BD in pairs
            ]
            loss = self.scale * torch.stack(losses).mean()
        return self.output(loss, z_ND, b)
