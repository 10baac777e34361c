"""Barlow Twins against lightly's loss and the published equations.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch

from tcl_train.methods.barlow_twins import BarlowTwins, barlow_twins_loss

LAM = 0.02


def published(one_BD, other_BD):
    """Equations 1 and 2, entry by entry, of columns with mean 0. The authors' batch norm adds 1e-5
    to the variance."""
    b, d = one_BD.shape
    columns = []
    for z_BD in (one_BD, other_BD):
        z_BD = z_BD - z_BD.mean(0)
        columns.append(z_BD / (z_BD.square().mean(0) + 1e-5).sqrt())
    loss = one_BD.new_zeros(())
    for i in range(d):
        for j in range(d):
            c_ij = sum(columns[0][k, i] * columns[1][k, j] for k in range(b)) / b
            loss = loss + ((1 - c_ij) ** 2 if i == j else LAM * c_ij**2)
    return loss


def test_it_is_the_published_loss(rows, assert_same_function):
    z = rows(8, 5), rows(8, 5, seed=1)
    assert_same_function(lambda a, b: barlow_twins_loss(a, b, lam=LAM), published, *z)


@pytest.mark.parametrize("shape", [(2, 3), (16, 4), (7, 20)], ids=str)
def test_it_is_the_loss_of_lightly(shape, rows, assert_same_function):
    theirs = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=LAM)
    z = rows(*shape), rows(*shape, seed=1)
    assert_same_function(lambda a, b: barlow_twins_loss(a, b, lam=LAM), theirs, *z)


def test_of_several_views_it_is_the_mean_over_pairs_times_the_scale(tiny_method, views):
    m = tiny_method(BarlowTwins, lam=LAM, scale=0.3).double()
    step = m(views(3).double(), torch.arange(8))
    a, b, c = step.rows_ND.split(8)
    pairs = [barlow_twins_loss(x, y, lam=LAM) for x, y in ((a, b), (a, c), (b, c))]
    torch.testing.assert_close(step.loss, 0.3 * sum(pairs) / 3)


def test_the_order_of_views_does_not_matter(rows):
    a, b = rows(8, 5), rows(8, 5, seed=1)
    forth, back = barlow_twins_loss(a, b, lam=LAM), barlow_twins_loss(b, a, lam=LAM)
    torch.testing.assert_close(forth, back)


def test_equal_views_of_uncorrelated_dimensions_cost_almost_nothing(rows):
    z_BD, _ = torch.linalg.qr(rows(16, 5) - rows(16, 5).mean(0))
    z_BD = 10 * (z_BD - z_BD.mean(0))
    assert barlow_twins_loss(z_BD, z_BD, lam=1.0) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_projections_have_a_finite_gradient(dtype):
    z_BD = torch.ones(8, 5, dtype=dtype, requires_grad=True)
    loss = barlow_twins_loss(z_BD, z_BD.detach(), lam=LAM)
    loss.backward()
    assert loss.item() == 5
    assert z_BD.grad.isfinite().all()


@pytest.mark.parametrize(("name", "value"), [("lam", -1.0), ("scale", 0.0), ("lam", "a")])
def test_settings_out_of_range_are_refused_by_name(name, value, tiny_method):
    with pytest.raises((ValueError, TypeError), match=name):
        tiny_method(BarlowTwins, **{name: value})
