"""Device, precision, and the signals that stop a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.parts import build_encoder
from tcl_train.errors import RequestError
from tcl_train.runtime import device as module
from tcl_train.runtime.device import (
    Runtime,
    available_cpus,
    choose_device,
    choose_precision,
    reproducible,
)

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def machine(patch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: cuda)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)


# ------------------------------------------------------------------ device


@pytest.mark.parametrize(
    ("there", "device"),
    [({"cuda": True, "mps": True}, CUDA), ({"cuda": True}, CUDA), ({"mps": True}, MPS), ({}, CPU)],
    ids=str,
)
def test_auto_takes_the_fastest_device_that_is_there(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, bool], device: torch.device
) -> None:
    machine(monkeypatch, **there)
    assert choose_device("auto") == device


def test_the_device_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True, mps=True)
    assert [choose_device(name) for name in ("cpu", "cuda", "mps")] == [CPU, CUDA, MPS]


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch)
    with pytest.raises(RequestError, match=f"device={name}: there is none .*give cpu"):
        choose_device(name)


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("device", "bf16", "chosen"),
    [
        (CPU, True, "bf16"),
        (CPU, False, "fp32"),
        (CUDA, True, "bf16"),
        (CUDA, False, "fp16"),
        (MPS, False, "fp32"),
    ],
)
def test_auto_takes_half_precision_where_the_device_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, bf16: bool, chosen: str
) -> None:
    monkeypatch.setattr(module, "cpu_computes_in_bf16", lambda: bf16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    precision, why = choose_precision("auto", device)
    assert precision == chosen
    assert "auto" in why


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_precision_that_is_named_is_taken(name: str) -> None:
    assert choose_precision(name, CPU) == (name, "as given")


def test_fp16_is_for_gpus() -> None:
    assert choose_precision("fp16", CUDA) == ("fp16", "as given")
    with pytest.raises(RequestError, match=r"precision=fp16 .* CPU; give auto, fp32 or bf16"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_matrices_are_multiplied_in_the_precision_of_the_run(
    precision: str, dtype: torch.dtype
) -> None:
    runtime = Runtime(device="cpu", precision=precision, compile=False)
    x = torch.ones(2, 2)
    with runtime.autocast():
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


# ------------------------------------------------------------------ one step


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(device="cpu", precision="fp32", compile=False)


def test_an_update_follows_the_gradient(runtime: Runtime) -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([w], lr=0.5)
    runtime.scaled((w * torch.tensor([2.0, 4.0])).sum()).backward()
    runtime.update(optimizer)
    assert w.tolist() == [0.0, 0.0]


def test_compiling_leaves_the_names_of_the_weights(
    compose_tiny: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a checkpoint could not be read without compiling."""
    encoder = build_encoder(compose_tiny(), image_size=8)
    names = list(encoder.state_dict())
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda of, **_: asked.append(of) or of)
    for compile in (False, True):
        runtime = Runtime(device="cpu", precision="fp32", compile=compile)
        runtime.compilation.decide(passes=1, sizes=1)
        runtime.prepare(torch.nn.Sequential(encoder))
        assert bool(asked) == compile
        assert list(encoder.state_dict()) == names


def test_images_are_computed_on_in_channels_last_order(
    runtime: Runtime, compose_tiny: Callable[..., DictConfig]
) -> None:
    encoder = build_encoder(compose_tiny(), image_size=8)
    runtime.prepare(encoder)
    weight = encoder.layer2[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_state_of_a_runtime_says_its_precision(runtime: Runtime) -> None:
    state = runtime.state_dict()
    assert state["precision"] == "fp32"
    Runtime(device="cpu", precision="bf16", compile=False).load_state_dict(state)


def test_the_cpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


def test_on_a_gpu_the_same_bits_are_asked_for_inside_the_block_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with reproducible(CUDA, wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("device", "wanted"), [(CUDA, False), (CPU, True), (MPS, True)])
def test_elsewhere_nothing_is_asked_for(device: torch.device, wanted: bool) -> None:
    with reproducible(device, wanted=wanted):
        assert not torch.are_deterministic_algorithms_enabled()
