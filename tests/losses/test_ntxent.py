"""What is NT-Xent's own: SimCLR's formula for two views, and its place among the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcl_train.losses import TCL, NTXent, SupCon


def two_views(images=7, dimensions=5):
    draw = torch.Generator().manual_seed(0)
    z_ND = torch.randn(2 * images, dimensions, generator=draw, dtype=torch.float64)
    return z_ND, torch.arange(images).repeat(2)


@pytest.mark.parametrize("tau", [0.01, 0.1, 0.5, 1.0])
def test_two_views_are_a_classification_of_the_other_view(tau):
    """SimCLR as people write it: softmax cross-entropy over the other 2B - 1 rows, whose right
    class is the other view."""
    z_ND, y_N = two_views()
    unit_ND = F.normalize(z_ND)
    logit_NM = (unit_ND @ unit_ND.T / tau).fill_diagonal_(float("-inf"))
    expected = F.cross_entropy(logit_NM, torch.arange(14).roll(7))
    torch.testing.assert_close(NTXent(tau=tau)(z_ND, y_N), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [0.01, 0.1, 0.5, 1.0])
def test_with_distinct_images_and_two_views_all_three_losses_are_one(tau):
    z_ND, y_N = two_views()
    value = NTXent(tau=tau)(z_ND, y_N)
    for other in (SupCon(tau=tau), SupCon(tau=tau, form="in"), TCL(tau=tau, k1=0.0, k2=1.0)):
        torch.testing.assert_close(other(z_ND, y_N), value, rtol=1e-12, atol=1e-12)


def test_more_views_are_averaged_over_the_positives(batches):
    for z_ND, y_N in batches:
        torch.testing.assert_close(NTXent(tau=0.2)(z_ND, y_N), SupCon(tau=0.2)(z_ND, y_N))


def test_the_default_temperature_is_simclrs():
    assert NTXent().tau == 0.5
