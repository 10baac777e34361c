"""What the package's autograd functions have in common: a gradient in closed form, computed without
building a graph, so that there is no second derivative."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

NO_SECOND_DERIVATIVE = (
    "{name} has its gradient in closed form and no second derivative; take gradients of gradients "
    "of torch's own operations (a loss's equation is its anchor_losses; a convolution, nn.Conv2d)"
)
NO_TRANSFORM = (
    "{name} has its gradient in closed form, which the transforms of torch.func do not take; use "
    "torch.autograd.grad or backward()"
)

Backward = Callable[..., Any]


class ClosedForm(torch.autograd.Function):
    """A function whose `backward` is marked with :func:`first_derivative`. Call it by `call`."""

    @classmethod
    def call(cls, *args: Any) -> Any:
        """`apply`, with a clear error below a transform of torch.func.

        Raises:
            RuntimeError: a transform of torch.func is at work.
        """
        try:
            return cls.apply(*args)
        except RuntimeError as error:
            if "setup_context" in str(error):
                raise RuntimeError(NO_TRANSFORM.format(name=_name(cls))) from error
            raise


def first_derivative(backward: Backward) -> Backward:
    """Of a `backward`: computes without a graph, and makes its results raise RuntimeError where
    they are differentiated. (torch's `once_differentiable` does so only where the incoming gradient
    is a function of something, and otherwise takes the gradient for a constant.)"""

    @wraps(backward)
    def call(ctx: Any, *gradients: Tensor) -> Any:
        wanted = torch.is_grad_enabled()
        with torch.no_grad():
            results = backward(ctx, *gradients)
        if not wanted:
            return results
        used = [t for t in (*ctx.saved_tensors, *gradients) if t is not None and t.requires_grad]
        if isinstance(results, tuple):
            return tuple(_guarded(result, type(ctx), used) for result in results)
        return _guarded(results, type(ctx), used)

    return call


def _guarded(gradient: Tensor | None, function: type, used: list[Tensor]) -> Tensor | None:
    """The gradient as a function of what it was computed from, whose derivative is an error."""
    if gradient is None or not used:
        return gradient
    return _Undifferentiable.apply(_name(function), gradient, *used)


class _Undifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *_: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(NO_SECOND_DERIVATIVE.format(name=ctx.name))


def _name(function: type) -> str:
    return function.__name__.removeprefix("_").removesuffix("Backward")
