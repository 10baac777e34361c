"""VICReg against lightly's loss and the published equations.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch

from tcl_train.methods.vicreg import VICReg, covariance_term, variance_term, vicreg_loss

WEIGHTS = {"invariance": 3.0, "variance": 7.0, "covariance": 0.5}


def loss_of(*z):
    return vicreg_loss(torch.stack(z), **WEIGHTS)


def published(*z):
    """Equations 1, 3, 4 and 6, entry by entry, with the authors' code's means over dimensions in
    the invariance term and over views in the variance term."""
    b, d = z[0].shape
    variance = covariance = z[0].new_zeros(())
    for z_BD in z:
        centred = z_BD - z_BD.mean(0)
        for i in range(d):
            for j in range(d):
                cov = sum(centred[k, i] * centred[k, j] for k in range(b)) / (b - 1)
                if i == j:
                    variance = variance + (1 - (cov + 1e-4).sqrt()).clamp(min=0) / d / len(z)
                else:
                    covariance = covariance + cov**2 / d
    invariance = (z[0] - z[1]).square().sum(1).mean() / d
    return 3 * invariance + 7 * variance + 0.5 * covariance


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_it_is_the_published_loss(scale, rows, assert_same_function):
    z = [(scale * rows(8, 5, seed=s)).detach().requires_grad_() for s in (0, 1)]
    assert_same_function(loss_of, published, *z)


@pytest.mark.parametrize("shape", [(2, 3), (16, 4), (7, 20)], ids=str)
def test_it_is_the_loss_of_lightly(shape, rows, assert_same_function):
    theirs = pytest.importorskip("lightly.loss").VICRegLoss(3.0, 7.0, 0.5)
    assert_same_function(loss_of, theirs, rows(*shape), rows(*shape, seed=1))


def test_of_several_views_each_term_is_a_mean(rows):
    z = [rows(8, 5, seed=s) for s in range(3)]
    pairs = [loss_of(a, b) for a, b in ((z[0], z[1]), (z[0], z[2]), (z[1], z[2]))]
    torch.testing.assert_close(loss_of(*z), sum(pairs) / 3)


def test_dimensions_that_vary_by_one_cost_nothing(rows):
    z_BD = rows(64, 5).detach()
    assert variance_term(2 * (z_BD - z_BD.mean(0)) / z_BD.std(0)) == 0
    assert covariance_term(torch.linalg.qr(z_BD - z_BD.mean(0))[0]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_projections_have_a_finite_gradient(dtype):
    z_VBD = torch.ones(2, 8, 5, dtype=dtype, requires_grad=True)
    loss = vicreg_loss(z_VBD, **WEIGHTS)
    loss.backward()
    assert loss.item() == pytest.approx(7 * 0.99)
    assert z_VBD.grad.isfinite().all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_below_zero_are_refused_by_name(name, tiny_method):
    with pytest.raises(ValueError, match=name):
        tiny_method(VICReg, **{name: -1.0})
