"""A second oracle: pytorch-metric-learning, for the losses that it has.

N: rows; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor

from tcl_train.losses import NTXent, SupCon, Triplet

BALANCED = torch.arange(8).repeat(3)
UNEVEN = torch.tensor([0] * 7 + [1] * 2 + [2] * 5 + [3, 4])  # two rows without positives
PAIRS = torch.arange(12).repeat(2)


def agree(ours: torch.nn.Module, theirs: torch.nn.Module, y_N: Tensor) -> None:
    z_ND = torch.randn(len(y_N), 6, generator=torch.Generator().manual_seed(3)).double()
    values, gradients = [], []
    for loss in (ours, theirs):
        rows_ND = z_ND.clone().requires_grad_()
        values.append(loss(rows_ND, y_N))
        gradients.extend(torch.autograd.grad(values[-1], rows_ND))
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("tau", [0.07, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("y_N", [BALANCED, UNEVEN, PAIRS], ids=["balanced", "uneven", "pairs"])
def test_supcon(tau, y_N):
    agree(SupCon(tau), losses.SupConLoss(temperature=tau), y_N)


@pytest.mark.parametrize("tau", [0.07, 0.1, 0.5, 1.0])
def test_ntxent(tau):
    agree(NTXent(tau), losses.NTXentLoss(temperature=tau), PAIRS)


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_triplet(margin):
    """Its mean is over triplets and ours over anchors first: one for classes of one size."""
    theirs = losses.TripletMarginLoss(
        margin, distance=distances.LpDistance(power=2), reducer=reducers.MeanReducer()
    )
    agree(Triplet(margin), theirs, BALANCED)
