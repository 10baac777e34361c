"""A trainer of fake tensors, which have a shape and a device and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from tcl_train.building.parts import (
    build_augment,
    build_encoder,
    build_loss,
    build_method,
    build_optimizer,
    build_schedule,
)
from tcl_train.building.settings import read_settings
from tcl_train.data.loader import Batch
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.engine import optimizers
from tcl_train.engine.fit import Trainer
from tcl_train.engine.gradients import Gradients
from tcl_train.runtime import device as device_module
from tcl_train.runtime.device import Runtime

BATCH, SIDE = 6, 16
FakeTrainer = Callable[[DictConfig, str], AbstractContextManager[tuple[Trainer, Batch]]]


class OneEpoch:
    steps_per_epoch = 10
    places = torch.arange(BATCH)


def _make_fake(module: nn.Module, device: str) -> None:
    """The same module with fake tensors on the device, inside a FakeTensorMode."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                fake = torch.empty(p.shape, dtype=p.dtype, device=device)
                part._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)


@contextmanager
def _fake_trainer(config: DictConfig, device: str) -> Iterator[tuple[Trainer, Batch]]:
    """A trainer and a batch of fake tensors on the device, with real draws of the augmentation."""
    settings = read_settings(config)
    data: Any = SimpleNamespace(image_size=SIDE, mean=[0.5] * 3, std=[0.25] * 3)
    augment = build_augment(config, data)
    generator = torch.Generator().manual_seed(0)
    drawn = augment.draw(BATCH, SIDE, SIDE, views=settings.views, generator=generator)
    augment.draw = lambda *_, **__: drawn  # type: ignore[method-assign]
    runtime = Runtime(device=device, precision=config.precision, compile=False)
    loss = build_loss(config)
    # Made of real tensors: a teacher copies its student, and fake ones cannot be copied.
    encoder = build_encoder(config, image_size=SIDE)
    method = build_method(config, encoder=encoder, loss=loss, num_classes=3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(method, device)
        with torch.device(device):
            images_BCHW = torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.uint8)
            labels_B = torch.empty(BATCH, dtype=torch.int64)
        trainer = Trainer(
            method=method,
            loader=OneEpoch(),  # type: ignore[arg-type]
            views=ViewPlan([ViewGroup(augment=augment, count=settings.views)], seed=0),
            gradients=Gradients(runtime, Shares(BATCH), seed=0),
            optimizer=build_optimizer(config, method),
            schedule=build_schedule(config),
            runtime=runtime,
            epochs=1,
            lr=0.1,
            log_every=1,
        )
        yield trainer, Batch([images_BCHW], labels_B)


@pytest.fixture
def fake_trainer() -> FakeTrainer:
    """`with fake_trainer(config, "cuda") as (trainer, batch):`"""
    return _fake_trainer


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU for which a runtime and autocast can be built, but nothing can run on it."""
    monkeypatch.setattr(device_module, "choose_device", torch.device)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # which a runtime sets


class Context:
    """What an autograd function keeps for its backward pass."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


@pytest.fixture
def without_autograd(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd functions of this package go backward at once, with gradients that nobody takes; the
    gradients of the weights are made up."""

    def forward_and_backward(function: Any, *args: Any) -> Tensor:
        context = Context()
        with torch.no_grad():
            value = function.forward(context, *args)
            function.backward(context, torch.empty_like(value))
        return value

    monkeypatch.setattr(torch.autograd.Function, "apply", classmethod(forward_and_backward))
    # The one operation of a step that fake CUDA tensors don't have.
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *_, **__: None)
    monkeypatch.setattr(Tensor, "backward", lambda _: None)


def _make_up_gradients(trainer: Trainer) -> None:
    """Where a step would have cleared them."""
    trainer.method.zero_grad = lambda **_: None  # type: ignore[method-assign]
    for p in trainer.method.parameters():
        p.grad = torch.empty_like(p)


@pytest.fixture
def make_up_gradients() -> Callable[[Trainer], None]:
    """`make_up_gradients(trainer)`, where there is no backward pass."""
    return _make_up_gradients


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """`with all_at_once():` optimisers update many weights at once, as they do on a GPU."""

    def of_a_kind(ws: list[Tensor]) -> list[list[Tensor]]:
        is_vector = [w.ndim < 2 for w in ws]
        return [
            [w for w, vector in zip(ws, is_vector, strict=True) if vector == wanted]
            for wanted in sorted(set(is_vector))
        ]

    @contextmanager
    def patched() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(optimizers, "together", of_a_kind)
            yield

    return patched
