"""Muon: orthogonal updates, against a singular value decomposition and formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcl_train.engine.muon import NEWTON_SCHULZ, muon, orthogonal


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6)], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape, steps):
    matrix = draw(*shape)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    expected = u @ values.diag() @ v
    torch.testing.assert_close(orthogonal(matrix, steps), expected, rtol=1e-6, atol=1e-6)


def test_five_steps_come_near_an_orthogonal_matrix():
    values = torch.linalg.svdvals(orthogonal(draw(12, 40), 5))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("steps", [3, 12, 30])
def test_rounding_stays_small_where_most_singular_values_are_zero(steps):
    """In float32, for the product of two vectors. What rounding leaves of the other singular values
    grows to 1, as it must, and nothing grows beyond the bounds of the iteration."""
    left_R, right_C = draw(48), draw(200, seed=1)
    matrix = torch.outer(left_R, right_C).float()
    values = torch.linalg.svdvals(orthogonal(matrix, steps))
    assert 0.6 < values[0] < 1.3  # the largest


def test_zero_stays_zero():
    assert torch.equal(orthogonal(torch.zeros(3, 4), 3), torch.zeros(3, 4))


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
        ).double()


def gradients(module, seed):
    for number, p in enumerate(module.parameters()):
        p.grad = draw(*p.shape, seed=seed + number)


@pytest.mark.parametrize("fixed_norm", [True, False])
def test_two_steps_are_the_equations(fixed_norm):
    module = model()
    optimizer = muon(
        module, 0.1, momentum=0.5, fixed_norm=fixed_norm, vector_lr=0.2, vector_momentum=0.7
    )
    expected = [p.detach().clone() for p in module.parameters()]
    buffers = [torch.zeros_like(p) for p in expected]
    for step in range(2):
        gradients(module, 10 * step)
        for w, u, p in zip(expected, buffers, module.parameters(), strict=True):
            momentum = 0.5 if w.ndim > 1 else 0.7
            u.copy_(momentum * u + p.grad)
            lookahead = p.grad + momentum * u
            if w.ndim == 1:
                w -= 0.1 * 0.2 * lookahead
                continue
            rows, columns = w.shape[0], w[0].numel()
            if fixed_norm and w.ndim > 2:  # not a classifier, whose length says how sure it is
                w *= rows**0.5 / w.norm()
            change = orthogonal(lookahead.reshape(rows, columns), 3).view_as(w)
            w -= 0.1 * max(1, rows / columns) ** 0.5 * change
        optimizer.step()
    for p, w in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps"),
        ({"vector_lr": -1.0}, "vector_lr"),
        ({"vector_momentum": -0.1}, "vector_momentum"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, word):
    with pytest.raises(ValueError, match=word):
        muon(model(), 0.1, **setting)
