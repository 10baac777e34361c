"""VICReg: views agree, dimensions vary, and do not covary.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from tcl_train import checks
from tcl_train.losses.pair_loss import at_least_float32, similarities
from tcl_train.methods.method import Embeddings, StepOutput, Views, by_view
from tcl_train.methods.self_supervised import SelfSupervised, mean_over_pairs

SMALLEST_VARIANCE = 1e-4


def variance_term(z_BD: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - sqrt(var + 1e-4)). Bardes et al. 2022, equation 1."""
    return F.relu(1 - (z_BD.var(0) + SMALLEST_VARIANCE).sqrt()).mean()


def covariance_term(z_BD: Tensor) -> Tensor:
    """Sum over i != j of cov_ij^2, divided by D. Bardes et al. 2022, equations 3 and 4."""
    centred_BD = z_BD - z_BD.mean(0)
    cov_DD = similarities(centred_BD.T, centred_BD.T) / (len(z_BD) - 1)
    return (cov_DD.square().sum() - cov_DD.diagonal().square().sum()) / z_BD.shape[1]


def vicreg_loss(z_VBD: Tensor, *, invariance: float, variance: float, covariance: float) -> Tensor:
    """The weighted sum of the mean squared distance of views, the variance term (mean over views)
    and the covariance term (sum over two views; of more, twice the mean), as in the authors' code.
    """
    apart = mean_over_pairs(F.mse_loss, z_VBD, z_VBD)
    spread = torch.stack([variance_term(z_BD) for z_BD in z_VBD]).mean()
    redundant = 2 * torch.stack([covariance_term(z_BD) for z_BD in z_VBD]).mean()
    return invariance * apart + variance * spread + covariance * redundant


class VICReg(SelfSupervised):
    """:func:`vicreg_loss` of the projections.

    Args:
        invariance, variance, covariance: weights of the three terms.
    """

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        self.weights = {n: checks.number(n, value, at_least=0) for n, value in weights.items()}

    def embed(self, views: Views) -> Embeddings:
        return {"z_ND": self.project(views)}

    def compute_loss(self, embeddings: Embeddings, labels_B: Tensor, progress: float) -> StepOutput:  # noqa: ARG002
        z_ND, b = embeddings["z_ND"], len(labels_B)
        with record_function("loss"):
            loss = vicreg_loss(by_view(at_least_float32(z_ND), b), **self.weights)
        return self.output(loss, z_ND, b)
