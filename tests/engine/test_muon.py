"""Muon, against formulas written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn

from tcl_train.engine import orthogonal as orthogonal_module
from tcl_train.engine.muon import muon
from tcl_train.engine.orthogonal import orthogonal


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
        ).double()


def gradients(module, seed):
    for number, p in enumerate(module.parameters()):
        p.grad = draw(*p.shape, seed=seed + number).to(p.dtype)


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


def several() -> nn.Module:
    """Convolutions of several sizes, two of one shape, and one that is tall; a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = [(3, 8, 3), (8, 8, 3), (8, 8, 3), (8, 16, 1)]
        layers = [nn.Conv2d(i, o, k) for i, o, k in convolutions]
        return nn.Sequential(*layers, nn.BatchNorm2d(16), nn.Linear(16, 10)).double()


def after_two_steps(module: nn.Module, **settings: Any) -> list[torch.Tensor]:
    optimizer = muon(module, 0.1, **settings)
    for step in range(2):
        gradients(module, 10 * step)
        optimizer.step()
    return [p.detach() for p in module.parameters()]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize("fixed_norm", [True, False])
def test_all_matrices_at_once_are_each_by_itself(
    all_at_once: Callable[[], AbstractContextManager[None]],
    fixed_norm: bool,
    steps: int,
    channels_last: bool,
) -> None:
    settings = {"fixed_norm": fixed_norm, "newton_schulz_steps": steps}
    expected = after_two_steps(several(), **settings)
    module = several()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    with all_at_once():
        found = after_two_steps(module, **settings)
    for a, b in zip(found, expected, strict=True):
        # TINY is added to a norm in the one form and is its least value in the other.
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_in_bf16_an_update_is_off_by_little(
    all_at_once: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [p.detach() for p in several().float().parameters()]
    expected = after_two_steps(several().float())
    monkeypatch.setattr(orthogonal_module, "product_dtype", lambda *_: torch.bfloat16)
    with all_at_once():
        found = after_two_steps(several().float())
    for a, b, was in zip(found, expected, before, strict=True):
        assert (a - b).norm() < 0.02 * (b - was).norm()


def test_a_weight_of_zeros_and_a_gradient_of_zeros_stay(
    all_at_once: Callable[[], AbstractContextManager[None]],
) -> None:
    weights = [nn.Parameter(torch.zeros(2, 3, 1, 1)), nn.Parameter(torch.ones(2, 3, 1, 1))]
    for w in weights:
        w.grad = torch.zeros_like(w)
    with all_at_once():
        muon(nn.ParameterList(weights), 0.1).step()
    assert torch.equal(weights[0], torch.zeros(2, 3, 1, 1))
    torch.testing.assert_close(weights[1].norm(), torch.tensor(2.0).sqrt())


def test_a_copied_optimiser_updates_all_at_once(
    all_at_once: Callable[[], AbstractContextManager[None]],
) -> None:
    module = several()
    copied = copy.deepcopy(muon(module, 0.1))
    for p in copied.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    with all_at_once():
        copied.step()


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
