"""Updates, and compiled runs, on a GPU: the optimisers take all weights at once there, and one
after the other on the CPU. See test_on_a_gpu.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.muon import muon
from tcl_train.engine.optimizers import Optimizer, adamw, compile_rule, lars, sgd
from tcl_train.models import mlp, resnet8

pytestmark = pytest.mark.gpu


def compiled_lars(module: nn.Module, lr: float) -> Optimizer:
    optimizer = lars(module, lr)
    compile_rule(optimizer, partial(torch.compile, dynamic=False))
    return optimizer


def after_three_steps(module: nn.Module, make: Callable[..., Any], device: str) -> torch.Tensor:
    """All weights after three steps with drawn gradients."""
    module = copy.deepcopy(module).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make(module, 0.1)
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p in module.parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=g))
        optimizer.step()
    return weights(module)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in module.parameters()])


@pytest.mark.parametrize(
    ("make", "off"),
    [
        (lars, 1e-5),
        (compiled_lars, 1e-5),
        (muon, 0.05),  # whose products are in bf16
        (sgd, 1e-5),
        (adamw, 1e-4),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
def test_an_update_is_that_of_the_cpu(make: Callable[..., Any], off: float, device: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = resnet8(32, width=16)
        module = nn.Sequential(encoder, mlp(encoder.feature_dim))
    before = weights(module)
    on_cpu, on_gpu = (after_three_steps(module, make, place) for place in ("cpu", device))
    assert (on_gpu - on_cpu).norm() < off * (on_cpu - before).norm()


@pytest.mark.parametrize(
    ("choice", "precision"), [("true", "fp32"), ("true", "bf16"), ("cuda_graphs", "bf16")]
)
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
def test_a_compiled_run_trains_as_an_uncompiled_one(
    compose_tiny: Callable[..., DictConfig],
    few_digits: DataSet,
    choice: str,
    precision: str,
    device: str,
) -> None:
    """The losses of five steps, and what they have made of the weights."""
    if device == "cpu" and choice == "cuda_graphs":
        pytest.skip("CUDA graphs need a GPU")
    losses, moved = [], []
    for compile in ("false", choice):
        words = (f"device={device}", f"precision={precision}", f"compile={compile}")
        trainer = build_run(compose_tiny("batch_size=32", *words), data=few_digits).trainer
        method = trainer.method.train()
        before = weights(method)
        found = [
            trainer.measure(trainer.train_step(batch))["loss"] for batch in trainer.loader.epoch(0)
        ]
        losses.append(found)
        moved.append(weights(method) - before)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert (moved[1] - moved[0]).norm() < (0.02 if precision == "fp32" else 0.3) * moved[0].norm()
