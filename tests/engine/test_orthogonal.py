"""Newton-Schulz iterations, against a singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from tcl_train.engine.orthogonal import NEWTON_SCHULZ, Stack, orthogonal, size_classes


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


@pytest.mark.parametrize("steps", [3, 5])
def test_many_matrices_at_once_are_each_by_itself(steps):
    shapes = [(4, 9), (9, 4), (5, 5), (4, 9), (1, 6)]
    stack = Stack.of(tuple(shapes), (False,) * 5, torch.device("cpu"), torch.float64)
    matrices = [draw(*shapes[k], seed=k) for k in stack.order]
    flat = torch.cat([m.flatten() / m.norm() for m in matrices])
    found = stack.orthogonal(flat, steps).split([m.numel() for m in matrices])
    for result, matrix in zip(found, matrices, strict=True):
        torch.testing.assert_close(
            result.view_as(matrix), orthogonal(matrix, steps), rtol=1e-6, atol=1e-6
        )


def test_a_size_joins_a_larger_one_where_that_costs_little():
    few = [(512, 4608), (512, 4608), (256, 2304), (64, 128)]
    assert [[a.side for a in c] for c in size_classes(few)] == [[512, 256, 64]]
    assert [(a.k, a.begin, a.size) for a in size_classes(few)[0]] == [
        (0, 0, 2),
        (2, 2 * 512 * 4608, 1),
        (3, 2 * 512 * 4608 + 256 * 2304, 1),
    ]
    many = [(2048, 2048), *[(512, 4608)] * 5]
    assert [[a.side for a in c] for c in size_classes(many)] == [[2048], [512]]
