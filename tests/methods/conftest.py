"""What the tests of self-supervised methods share: a tiny method, its views, and oracles' rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tcl_train.losses import LossOfMethod
from tcl_train.methods.self_supervised import SelfSupervised
from tcl_train.models import mlp

DIM = 5


def _tiny_method(
    kind: type[SelfSupervised],
    *,
    norm: bool = False,
    projector: nn.Module | None = None,
    **keys: Any,
) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6)]
        encoder: Any = nn.Sequential(*layers, *([nn.BatchNorm1d(6)] if norm else []))
        encoder.feature_dim = 6
        projector = projector or mlp(6, out_dim=DIM, hidden_dim=7, hidden_norm=norm)
        return kind(
            encoder=encoder, projector=projector, loss=LossOfMethod(), num_classes=3, **keys
        )


@pytest.fixture(scope="session")
def tiny_method() -> Callable[..., Any]:
    """`tiny_method(BYOL, momentum=0.5)`: projections have 5 dimensions; norm: with batch norm."""
    return _tiny_method


@pytest.fixture(scope="session")
def views() -> Callable[..., Tensor]:
    """`views(2)`: two views of each of `images` random images, view after view."""

    def draw(count: int, images: int = 8, *, size: int = 4, seed: int = 1) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(count * images, 3, size, size, generator=g)

    return draw


@pytest.fixture(scope="session")
def rows() -> Callable[..., Tensor]:
    """`rows(2, 8, 5)`: random numbers of this shape in float64, of which gradients are taken."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    return draw


@pytest.fixture(scope="session")
def assert_same_function() -> Callable[..., None]:
    """`assert_same_function(ours, theirs, z, ...)`: equal values and gradients by all of z."""

    def check(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *z: Tensor) -> None:
        values = ours(*z), theirs(*z)
        torch.testing.assert_close(values[0], values[1].reshape(()), rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(v.sum(), z, allow_unused=True) for v in values]
        for one, other in zip(*gradients, strict=True):
            if one is None or other is None:
                assert one is other is None
            else:
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)

    return check
