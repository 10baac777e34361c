"""What is the triplet loss's own: the margin."""

from __future__ import annotations

import pytest
import torch

from tcl_train.losses import Triplet


def at_angles(*degrees):
    angle_N = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle_N.cos(), angle_N.sin()], 1)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        # Squared distances of the anchors at 0 and 60 degrees: 1 to each other; 2 and 2 - 3^0.5 to
        # the stranger at 90.
        (0.0, (0 + 3**0.5 - 1) / 2),
        (0.5, (0 + 3**0.5 - 0.5) / 2),
        (1.5, (0.5 + 3**0.5 + 0.5) / 2),
    ],
)
def test_a_triplet_costs_what_is_missing_to_the_margin(margin, expected):
    value = Triplet(margin=margin)(at_angles(0, 60, 90), torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx(expected)


def test_triplets_beyond_the_margin_cost_nothing(value_and_gradient):
    z_ND, y_N = at_angles(0, 1, 120, 121), torch.tensor([0, 0, 1, 1])
    value, gradient_ND = value_and_gradient(Triplet(margin=0.5), z_ND, y_N)
    assert value == 0
    assert torch.count_nonzero(gradient_ND) == 0
    assert Triplet(margin=4.0)(z_ND, y_N) > 0


def test_an_anchor_without_negatives_costs_nothing_and_counts():
    assert Triplet()(at_angles(0, 60, 90), torch.zeros(3).long()) == 0
