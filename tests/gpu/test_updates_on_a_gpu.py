"""Updates, and compiled runs, on a GPU: the optimisers take all weights at once there, and one
after the other on the CPU. See test_on_a_gpu.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from tcl_train.build import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.muon import muon
from tcl_train.engine.optimizers import adamw, lars, sgd
from tcl_train.models import mlp, resnet8

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def after_three_steps(module: nn.Module, make: Callable[..., Any], device: str) -> torch.Tensor:
    """All weights after three steps with drawn gradients."""
    module = copy.deepcopy(module).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make(module, 0.1)
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p in module.parameters():
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=g))
        optimizer.step()
    return torch.cat([p.detach().flatten().cpu() for p in module.parameters()])


@pytest.mark.parametrize(
    ("make", "off"),
    [(lars, 1e-5), (muon, 0.05), (sgd, 1e-5), (adamw, 1e-4)],  # Muon's products are in bf16
)
def test_an_update_is_that_of_the_cpu(make: Callable[..., Any], off: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = resnet8(32, width=16)
        module = nn.Sequential(encoder, mlp(encoder.feature_dim))
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    on_cpu, on_gpu = (after_three_steps(module, make, device) for device in ("cpu", "cuda"))
    assert (on_gpu - on_cpu).norm() < off * (on_cpu - before).norm()


@pytest.mark.parametrize("choice", ["true", "cuda_graphs"])
def test_a_compiled_run_trains_as_an_uncompiled_one(
    compose_tiny: Callable[..., DictConfig], few_digits: DataSet, choice: str
) -> None:
    found = []
    for compile in ("false", choice):
        words = ("batch_size=32", "device=cuda", "precision=fp32", f"compile={compile}")
        trainer = build_run(compose_tiny(*words), data=few_digits).trainer
        trainer.method.train()
        losses = []
        for batch in trainer.loader.epoch(0):
            losses.append(trainer.measure(trainer.train_step(batch))["loss"])
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-2)
