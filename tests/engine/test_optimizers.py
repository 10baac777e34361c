"""The optimisers, against torch's own and against formulas written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from tcl_train.building.run import build_run
from tcl_train.engine.optimizers import (
    LARS,
    Optimizer,
    adamw,
    compile_rule,
    laid_out_as,
    lars,
    lars_rule,
    parameter_groups,
    sgd,
)

MAKERS = [sgd, adamw, lars]


def model():
    """Weights of two and four dimensions, biases, and norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
        ).double()


def train(module, optimizer, steps=3, rates=None):
    """A few steps on fixed data."""
    draw = torch.Generator().manual_seed(1)
    x_NCHW = torch.randn(5, 3, 4, 4, generator=draw, dtype=torch.float64)
    for step in range(steps):
        if rates:
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
        optimizer.zero_grad()
        module(x_NCHW).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def assert_same(left, right, **tolerance):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


# ------------------------------------------------------------------ parameter groups


def test_biases_and_norms_are_a_group_without_decay():
    module = model()
    decayed, plain = parameter_groups(module, weight_decay=0.1, decay_bias_and_norm=False)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight), id(module[4].weight)]
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (module[0].bias, module[1].weight, module[1].bias, module[4].bias)
    }


def test_one_group_decays_everything_when_asked():
    module = model()
    (group,) = parameter_groups(module, weight_decay=0.1, decay_bias_and_norm=True)
    assert group["weight_decay"] == 0.1
    assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]


@pytest.mark.parametrize("decay_bias_and_norm", [False, True])
def test_frozen_parameters_are_in_no_group(decay_bias_and_norm):
    module = model()
    module[0].requires_grad_(False)
    groups = parameter_groups(module, weight_decay=0.1, decay_bias_and_norm=decay_bias_and_norm)
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for part in module[1:] for p in part.parameters()}


def test_a_module_without_biases_makes_no_empty_group():
    (group,) = parameter_groups(
        nn.Linear(2, 2, bias=False), weight_decay=0.1, decay_bias_and_norm=False
    )
    assert len(group["params"]) == 1


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("decay_bias_and_norm", [False, True])
def test_every_maker_trains_each_parameter_once_at_the_peak_rate(maker, decay_bias_and_norm):
    module = model()
    optimizer = maker(module, 0.25, weight_decay=0.1, decay_bias_and_norm=decay_bias_and_norm)
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in module.parameters())
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == ({0.1} if decay_bias_and_norm else {0.1, 0.0})


# ------------------------------------------------------------------ torch's own


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.8, True), (0.0, False)])
def test_sgd_is_torchs(momentum, nesterov):
    ours, theirs = model(), model()
    optimizer = sgd(ours, 0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    reference = torch.optim.SGD(
        theirs.parameters(), lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01
    )
    assert_same(train(ours, optimizer), train(theirs, reference), rtol=1e-12, atol=1e-15)


def test_sgds_defaults_are_the_published_ones():
    """Momentum 0.9, weight decay 1e-4 on everything."""
    ours, theirs = model(), model()
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert_same(train(ours, sgd(ours, 0.1)), train(theirs, reference), rtol=1e-12, atol=1e-15)


def test_adamw_is_torchs():
    ours, theirs = model(), model()
    optimizer = adamw(
        ours, 0.01, betas=[0.8, 0.99], eps=1e-6, weight_decay=0.05, decay_bias_and_norm=True
    )
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05
    )
    assert_same(train(ours, optimizer), train(theirs, reference), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("maker", MAKERS)
def test_decay_shrinks_weights_and_leaves_biases_and_norms(maker):
    """With gradients of zero, decay is all that acts."""
    module = model()
    nn.init.ones_(module[4].bias)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = maker(module, 0.1, weight_decay=0.5, decay_bias_and_norm=False)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, was in zip(module.parameters(), before, strict=True):
        assert torch.equal(p, was) if p.ndim == 1 else p.norm() < was.norm()


# ------------------------------------------------------------------ LARS


def test_two_steps_of_lars_are_the_formula():
    """g <- g + weight_decay w; r = trust |w| / |g|; u <- momentum u + r lr g; w <- w - u, with
    another learning rate in the second step: it is inside the momentum."""
    weight = torch.tensor([[3.0, 0], [0, 4]], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([1.0, -2], dtype=torch.float64, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias]}]
    optimizer = LARS(groups, lr=0.5, momentum=0.9, trust=0.02)
    w, b = weight.detach().clone(), bias.detach().clone()
    u_w, u_b = torch.zeros_like(w), torch.zeros_like(b)
    gradients = [([[0.0, 2], [1, 0]], [0.5, 0.5]), ([[1.0, 1], [0, -3]], [-1.0, 0.25])]
    for lr, (g_w, g_b) in zip((0.5, 0.2), gradients, strict=True):
        weight.grad = torch.tensor(g_w, dtype=torch.float64)
        bias.grad = torch.tensor(g_b, dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        g = weight.grad + 0.1 * w
        ratio = 0.02 * w.square().sum().sqrt() / g.square().sum().sqrt()
        u_w = 0.9 * u_w + ratio * lr * g
        u_b = 0.9 * u_b + lr * bias.grad
        w, b = w - u_w, b - u_b
        assert_same([weight.detach(), bias.detach()], [w, b], rtol=1e-12, atol=0)


def test_the_first_step_of_lars_has_a_length_in_proportion_to_the_weights():
    """|step| = lr trust |w| for each layer, whatever the gradient's size: what it is for."""
    module = model()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = lars(module, 2.0, trust=0.01, weight_decay=0)
    for p, size in zip(module.parameters(), (1e-4, 1, 1, 1, 1e4, 1), strict=True):
        p.grad = size * torch.ones_like(p)
    optimizer.step()
    for p, was in zip(module.parameters(), before, strict=True):
        expected = 2 * 0.01 * was.norm() if p.ndim > 1 else 2 * p.grad.norm()
        torch.testing.assert_close((p - was).norm(), expected)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("lr", [0.05, 0.5])
def test_with_clip_the_rate_of_a_layer_is_that_of_lars_but_at_most_lr(size, lr):
    """min(trust |w| / |g|, lr), which the first step shows: the step is rate x gradient."""
    parameter = nn.Parameter(torch.tensor([[3.0, 0], [0, 4]], dtype=torch.float64))
    w = parameter.detach().clone()
    g = size * torch.tensor([[0.0, 2], [1, 0]], dtype=torch.float64)
    parameter.grad = g
    group = {"params": [parameter], "weight_decay": 0.1}
    LARS([group], lr=lr, momentum=0.9, trust=0.02, clip=True).step()
    with_decay = g + 0.1 * w
    rate = min(0.02 * 5 / with_decay.square().sum().sqrt().item(), lr)
    torch.testing.assert_close(parameter.detach(), w - rate * with_decay)


def test_with_clip_a_learning_rate_of_zero_changes_nothing():
    """As in the first step of a warm-up."""
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    LARS([parameter], lr=0.0, momentum=0.9, trust=0.02, clip=True).step()
    assert torch.equal(parameter, torch.ones(2, 2))


def test_clip_does_not_scale_vectors_and_is_a_boolean():
    bias = nn.Parameter(torch.ones(2))
    bias.grad = torch.full((2,), 1e-3)
    LARS([bias], lr=0.5, momentum=0.9, trust=0.02, clip=True).step()
    torch.testing.assert_close(bias.detach(), torch.full((2,), 1 - 0.5e-3))
    with pytest.raises(TypeError, match="clip"):
        lars(model(), 1.0, clip=1)


@pytest.mark.parametrize("at_zero", ["weight", "gradient"])
def test_lars_does_not_scale_by_a_norm_of_zero(at_zero):
    w = torch.zeros(2, 2) if at_zero == "weight" else torch.ones(2, 2)
    g = torch.zeros(2, 2) if at_zero == "gradient" else torch.ones(2, 2)
    parameter = nn.Parameter(w.clone())
    parameter.grad = g
    LARS([parameter], lr=0.5, momentum=0.9, trust=0.01).step()
    assert torch.equal(parameter.detach(), w - 0.5 * g)


def test_lars_leaves_parameters_without_gradient_alone():
    idle, busy = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    busy.grad = torch.ones(2, 2)
    LARS([idle, busy], lr=0.5, momentum=0.9, trust=0.1, weight_decay=0.1).step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(busy, torch.ones(2, 2))


def test_lars_leaves_the_gradient_alone():
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.full((2, 2), 3.0)
    LARS([parameter], lr=0.5, momentum=0.9, trust=0.1, weight_decay=0.1).step()
    assert torch.equal(parameter.grad, torch.full((2, 2), 3.0))


def test_lars_returns_what_the_closure_returns():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([parameter], lr=0.5, momentum=0.9, trust=0.1)

    def closure():
        value = parameter.square().sum()
        value.backward()
        return value

    assert optimizer.step(closure).item() == 4
    assert not torch.equal(parameter, torch.ones(2, 2))


@pytest.mark.parametrize("maker", MAKERS)
def test_an_optimiser_goes_on_from_its_state(maker):
    """Three steps, saved and restored, and three more are six steps."""
    through = model()
    expected = train(through, maker(through, 0.1), steps=6)
    first = model()
    optimizer = maker(first, 0.1)
    train(first, optimizer, steps=3)
    second = copy.deepcopy(first)
    resumed = maker(second, 0.7)
    resumed.load_state_dict(optimizer.state_dict())
    assert_same(train(second, resumed, steps=3), expected, rtol=0, atol=0)


# ------------------------------------------------------------------ several weights at once


@pytest.mark.parametrize("clip", [False, True])
def test_lars_of_all_weights_at_once_is_lars_of_each(
    all_at_once: Callable[[], AbstractContextManager[None]], clip: bool
) -> None:
    """On the CPU each weight is updated by itself, on a GPU all are; to the bit the same."""
    one, other = model(), model().to(memory_format=torch.channels_last)
    expected = train(one, lars(one, 0.3, weight_decay=0.1, clip=clip))
    with all_at_once():
        found = train(other, lars(other, 0.3, weight_decay=0.1, clip=clip))
    assert_same(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "device", "is_compiled"),
    [
        (lars, "meta", True),
        (lars, "cpu", False),  # one weight at a time, of many shapes
        (partial(lars, weight_decay_end=0.1), "meta", False),  # another number at each step
        (adamw, "meta", False),
    ],
)
def test_the_rule_of_lars_is_compiled_where_it_takes_all_weights_at_once(
    make: Callable[..., Optimizer], device: str, is_compiled: bool
) -> None:
    module = model().to(device)
    optimizer = make(module, 0.1)
    compile_rule(optimizer, lambda rule: ("compiled", rule))  # type: ignore[arg-type, return-value]
    assert (getattr(optimizer, "rule", None) == ("compiled", lars_rule)) == is_compiled


def test_gradients_are_laid_out_as_their_weights() -> None:
    w = torch.empty(4, 3, 1, 1).to(memory_format=torch.channels_last)
    same_order, other = torch.randn(4, 3, 1, 1), torch.randn(3, 4, 1, 1).transpose(0, 1)
    for gradient in (same_order, other):
        found = laid_out_as(w, gradient)
        assert found.stride() == w.stride()
        assert torch.equal(found, gradient)
    assert laid_out_as(w, same_order).data_ptr() == same_order.data_ptr()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("maker", "name", "value", "words"),
    [
        (sgd, "momentum", 1, "momentum must be .* >= 0 and < 1, got 1"),
        (sgd, "momentum", -0.1, "momentum must be .* >= 0 and < 1, got -0.1"),
        (sgd, "weight_decay", -1e-4, "weight_decay must be .* >= 0, got -0.0001"),
        (adamw, "betas", (0.9, 1), r"betas\[1\] must be .* >= 0 and < 1, got 1"),
        (adamw, "betas", (-1, 0.9), r"betas\[0\] must be .* >= 0 and < 1, got -1"),
        (adamw, "betas", (0.9,), r"betas .*0\.9"),
        (adamw, "betas", (0.9, 0.99, 0.999), r"betas .*0\.999"),
        (adamw, "eps", 0, "eps must be .* > 0, got 0"),
        (adamw, "weight_decay", -1, "weight_decay must be .* >= 0, got -1"),
        (lars, "momentum", 1.5, "momentum must be .* >= 0 and < 1, got 1.5"),
        (lars, "trust", 0, "trust must be .* > 0, got 0"),
        (lars, "weight_decay", -1, "weight_decay must be .* >= 0, got -1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(maker, name, value, words):
    with pytest.raises((TypeError, ValueError), match=words):
        maker(model(), 0.1, **{name: value})


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", ["weight_decay", "decay_bias_and_norm"])
def test_values_of_the_wrong_type_are_refused_by_name(maker, name):
    with pytest.raises(TypeError, match=f"{name} must be .* got 'much'"):
        maker(model(), 0.1, **{name: "much"})


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov needs momentum > 0, got momentum 0"):
        sgd(model(), 0.1, nesterov=True, momentum=0)


def test_nesterov_must_be_true_or_false():
    with pytest.raises(TypeError, match="nesterov must be true or false, got 1"):
        sgd(model(), 0.1, nesterov=1)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_negative_learning_rate_is_refused(maker):
    """It would climb; torch's own optimisers refuse it, and so must ours."""
    with pytest.raises(ValueError, match=r"(lr|learning rate).*-0.1"):
        maker(model(), -0.1)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lars"])
def test_weight_decay_follows_a_cosine_to_its_end(
    kind: str, compose_tiny: Callable[..., DictConfig]
) -> None:
    words = f"optimizer={kind}", "optimizer.weight_decay=0.04", "optimizer.weight_decay_end=0.4"
    config = compose_tiny(*words, "epochs=4", "optimizer.decay_bias_and_norm=false")
    trainer = build_run(config).trainer
    for progress, expected in ((0, 0.04), (0.5, 0.22), (1, 0.4)):
        trainer.set_rates(progress)
        decays = [group["weight_decay"] for group in trainer.optimizer.param_groups]
        assert decays == pytest.approx([expected, 0])


def test_weight_decay_stays_as_it_is_without_an_end(
    compose_tiny: Callable[..., DictConfig],
) -> None:
    trainer = build_run(compose_tiny("optimizer=sgd", "optimizer.weight_decay=0.04")).trainer
    trainer.set_rates(0.7)
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.04}
