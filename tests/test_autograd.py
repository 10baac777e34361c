"""Functions with a gradient in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tcl_train.autograd import ClosedForm, first_derivative


class _Cube(ClosedForm):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * x**3

    @staticmethod
    @first_derivative
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return 3 * ctx.scale * x**2 * gradient, None


def test_the_first_derivative_is_the_function_s_own() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    for create_graph in (False, True):
        (slope,) = torch.autograd.grad(_Cube.call(x, 0.5), x, create_graph=create_graph)
        assert slope.item() == 6


@pytest.mark.parametrize("factor", ["constant", "a function of x"])
def test_a_second_derivative_raises(factor: str) -> None:
    """Also where the incoming gradient is a constant, which torch's own decorator lets pass."""
    x = torch.tensor(2.0, requires_grad=True)
    value = _Cube.call(x, 0.5)
    if factor != "constant":
        value = value * x
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="Cube has its gradient in closed form and no second"):
        torch.autograd.grad(slope, x)


def test_transforms_are_refused_in_plain_words() -> None:
    with pytest.raises(RuntimeError, match=r"Cube .* transforms of torch\.func do not take"):
        torch.func.grad(lambda x: _Cube.call(x, 0.5))(torch.tensor(2.0))


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(TypeError):
        _Cube.call()
