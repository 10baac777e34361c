"""A step of training on fake CUDA tensors, which have a shape and a device and no values.

Autograd's engine asks for a driver where it meets a CUDA tensor; here its graph is walked by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.profiler import record_function

from tcl_train.building.parts import (
    build_encoder,
    build_loss,
    build_method,
    build_optimizer,
    build_schedule,
    build_views,
)
from tcl_train.building.settings import read_settings
from tcl_train.data.augment import Augment
from tcl_train.data.loader import Batch
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewPlan
from tcl_train.engine.fit import Trainer
from tcl_train.engine.gradients import Gradients
from tcl_train.runtime import device as device_module
from tcl_train.runtime.device import Runtime

LOSS_BACKWARD, ENCODER_BACKWARD = "loss backward", "encoder backward"


@contextmanager
def fake_gpu() -> Iterator[None]:
    """A GPU for which a runtime, autocast and a backward pass can be had, of fake tensors only."""
    with ExitStack() as stack:
        for target, name, value in (
            (device_module, "choose_device", torch.device),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda **_: True),
            (Tensor, "pin_memory", lambda x: x),
            (Augment, "draw", _really(Augment.draw)),
            (Tensor, "backward", _loss_backward),
            (torch.autograd, "backward", _encoder_backward),
        ):
            stack.enter_context(patch.object(target, name, value))
        cudnn = torch.backends.cudnn
        benchmark = cudnn.benchmark
        stack.callback(lambda: setattr(cudnn, "benchmark", benchmark))  # which a runtime sets
        yield


@contextmanager
def fake_step(config: DictConfig, *, side: int) -> Iterator[Callable[[], Any]]:
    """A trainer's step on a batch of fake tensors, with real draws of the augmentation."""
    settings = read_settings(config)
    b = settings.batch_size
    data: Any = SimpleNamespace(image_size=side, mean=[0.5] * 3, std=[0.25] * 3)
    groups = build_views(config, settings, data)
    loader: Any = SimpleNamespace(steps_per_epoch=10, places=torch.arange(b), batch_size=b)
    loss = build_loss(config)
    # Made of real tensors: a teacher copies its student, and fake ones cannot be copied.
    encoder = build_encoder(config, image_size=side)
    method = build_method(config, encoder=encoder, loss=loss, num_classes=10)
    runtime = Runtime(device="cuda", precision=settings.precision, compile=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(method)
        images_BCHW = torch.empty(b, 3, side, side, dtype=torch.uint8, device="cuda")
        labels_B = torch.empty(b, dtype=torch.int64, device="cuda")
        trainer = Trainer(
            method=method,
            loader=loader,
            views=ViewPlan(groups, seed=0),
            gradients=Gradients(runtime, Shares(b, settings.chunk_size), seed=0),
            optimizer=build_optimizer(config, method),
            schedule=build_schedule(config),
            runtime=runtime,
            epochs=1,
            lr=0.1,
            log_every=1,
        )
        method.train()
        yield lambda: trainer.train_step(Batch([images_BCHW], labels_B))


def _really(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with tensors that have values, which are the host's own work."""

    def call(*args: Any, **keys: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **keys)

    return call


def make_fake(module: nn.Module, device: str = "cuda") -> None:
    """The same module with fake tensors on the device, inside a FakeTensorMode."""

    def fake(x: Tensor) -> Tensor:
        order = torch.channels_last if x.ndim == 4 else torch.contiguous_format
        return torch.empty(x.shape, dtype=x.dtype, device=device, memory_format=order)

    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(fake(p), requires_grad=p.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = fake(value)


# ------------------------------------------------------------------ backward


def _loss_backward(loss: Tensor) -> None:
    with record_function(LOSS_BACKWARD):
        go_backward([loss], [torch.ones_like(loss)])


def _encoder_backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    with record_function(ENCODER_BACKWARD):
        go_backward(outputs, gradients)


@torch.no_grad()
def go_backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """What autograd's engine does: each node once, when all that flows into it has come."""
    roots = [x.grad_fn for x in outputs]
    missing = _edges_into(roots)
    inflow: dict[Any, list[Tensor | None]] = {}
    for x, gradient in zip(outputs, gradients, strict=True):
        _flow(inflow, x.grad_fn, x.output_nr, gradient)
    ready: list[Any] = [node for node in dict.fromkeys(roots) if not missing[node]]
    while ready:
        node = ready.pop()
        for (after, place), result in zip(
            node.next_functions, _results(node, inflow.pop(node, [])), strict=False
        ):
            if after is None:
                continue
            if result is not None:
                _flow(inflow, after, place, result)
            missing[after] -= 1
            if not missing[after]:
                ready.append(after)


def _edges_into(roots: Sequence[Any]) -> defaultdict[Any, int]:
    edges: defaultdict[Any, int] = defaultdict(int)
    found, to_do = set(roots), [*dict.fromkeys(roots)]
    while to_do:
        for after, _ in to_do.pop().next_functions:
            if after is not None:
                edges[after] += 1
                if after not in found:
                    found.add(after)
                    to_do.append(after)
    return edges


def _flow(inflow: dict[Any, list[Tensor | None]], node: Any, place: int, gradient: Tensor) -> None:
    """Gradients get the shape and the type of their values; several of one value are added up."""
    value = node._input_metadata[place]
    gradient = gradient.sum_to_size(value.shape).to(value.dtype)
    places = inflow.setdefault(node, [None] * len(node._input_metadata))
    before = places[place]
    places[place] = gradient if before is None else before + gradient


def _results(node: Any, gradients: list[Tensor | None]) -> Sequence[Tensor | None]:
    if not any(gradient is not None for gradient in gradients):
        return [None] * len(node.next_functions)
    if type(node).__name__ == "AccumulateGrad":
        (gradient,) = gradients
        assert gradient is not None
        _accumulate(node.variable, gradient)
        return ()
    call = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
    results = call(*gradients)
    return results if isinstance(results, tuple) else (results,)


def _accumulate(weight: Tensor, gradient: Tensor) -> None:
    """The engine takes the first gradient as it is, which nothing else holds. cuDNN gives that of a
    filter in the filter's order in memory, which fake tensors do not know."""
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight)
    weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
