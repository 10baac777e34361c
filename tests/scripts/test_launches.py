"""The counter of launches, and counts of a step."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.profiler import record_function

from tcl_train.engine.muon import muon
from tcl_train.engine.optimizers import adamw, lars, sgd
from tcl_train.models import mlp, resnet18

pytestmark = pytest.mark.usefixtures("fake_cuda", "on_path")


@pytest.fixture
def launches(on_path: None) -> Any:
    return importlib.import_module("launches")


# ------------------------------------------------------------------ what counts


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x * 2, (1, 0, 0)),
        (lambda x: x[0].view(2, 2).T, (0, 0, 0)),
        (lambda x: torch.empty_like(x), (0, 0, 0)),
        (lambda x: torch.zeros_like(x), (1, 0, 0)),
        (lambda x: x.to(torch.float16), (1, 0, 0)),
        (lambda x: x.to(x.dtype), (0, 0, 0)),
        (lambda x: x[:0] * 2, (0, 0, 0)),
        (lambda _: torch.ones(3) + 1, (0, 0, 0)),  # the host's own work
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), (0, 1, 0)),
        (lambda x: torch.ones(3).to(x.device), (0, 1, 1)),
        (lambda x: x.cpu(), (0, 1, 1)),
        (lambda x: x[torch.arange(2)], (1, 1, 1)),
        (lambda x: x * torch.tensor(2.0), (1, 0, 0)),  # the host reads it and passes it on
    ],
)
def test_what_an_operation_counts_as(
    launches: Any, work: Callable[[Any], Any], expected: tuple[int, ...]
) -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, device="cuda")
        with launches.LaunchCounter() as counter:
            work(x)
    total = counter.total
    assert (total.launches, total.copies, total.blocking) == expected


@pytest.mark.parametrize("work", [lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x[0].item()])
def test_asking_the_device_for_a_value_is_a_wait(launches: Any, work: Callable[[Any], Any]) -> None:
    unknown = ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    with FakeTensorMode(shape_env=unknown):
        x = torch.empty(3, device="cuda")
        with launches.LaunchCounter() as counter:
            work(x)
    assert counter.total.blocking == 1


@pytest.mark.parametrize(
    ("sizes", "depth", "expected"),
    [
        ([5] * 110, 1, 1),
        ([5] * 111, 1, 2),
        ([5] * 49, 3, 2),
        ([320 * 65536], 1, 1),
        ([320 * 65536 + 1], 1, 2),
        ([300 * 65536, 30 * 65536], 2, 2),
        ([], 1, 0),
    ],
)
def test_lists_are_split_as_torch_splits_them(
    launches: Any, sizes: list[int], depth: int, expected: int
) -> None:
    assert launches.multi_tensor_launches(sizes, depth) == expected


def test_a_list_counts_once_where_its_fast_path_takes_it(launches: Any) -> None:
    with FakeTensorMode():
        xs = [torch.empty(2, 3, device="cuda") for _ in range(5)]
        others = [torch.empty(3, 2, device="cuda").T for _ in range(5)]
        scales = [*torch.empty(5, device="cuda").unbind()]
        for given, expected in ((xs, 1), (others, 5), (scales, 5)):
            with launches.LaunchCounter() as counter:
                torch._foreach_mul_(xs, given)
            assert counter.total.launches == expected


def test_the_innermost_phase_counts_but_an_optimisers_mark(launches: Any) -> None:
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with launches.LaunchCounter() as counter:
            x + 1
            with record_function("outer"):
                x + 1
                with record_function("inner"):
                    x + 1
                with record_function("Optimizer.step#SGD.step"):
                    x + 1
    found = {name: counts.launches for name, counts in counter.phases.items()}
    assert found == {"other": 1, "outer": 2, "inner": 1}


def test_a_backward_pass_by_hand_gives_what_autograd_gives(on_path: None) -> None:
    """A value used twice, gradients of another shape and type, and a function of this package."""
    from tcl_train.losses.pair_loss import normalize_rows

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
        x_ND = torch.randn(6, 4)

    def outputs() -> list[torch.Tensor]:
        module.zero_grad()
        h_ND = module(x_ND)
        return [normalize_rows(h_ND) + h_ND.mean(0), h_ND.half() * 2]

    gradients = [torch.ones(6, 5), torch.ones(6, 5, dtype=torch.float16)]
    torch.autograd.backward(outputs(), gradients)
    expected = [p.grad for p in module.parameters()]
    importlib.import_module("fake_gpu").go_backward(outputs(), gradients)
    for p, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


# ------------------------------------------------------------------ a step


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(("make", "most"), [(lars, 60), (muon, 60), (sgd, 3), (adamw, 6)])
def test_an_update_of_resnet18_takes_few_launches(
    launches: Any,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Any],
    most: int,
    bf16: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    encoder = resnet18(32)
    module = nn.Sequential(encoder, mlp(encoder.feature_dim))
    with FakeTensorMode():
        importlib.import_module("fake_gpu").make_fake(module)
        optimizer = make(module, 0.1)
        for p in module.parameters():
            p.grad = torch.empty_like(p)
        with launches.LaunchCounter():
            optimizer.step()  # which makes its state
        with launches.LaunchCounter() as counter:
            optimizer.step()
    assert 0 < counter.total.launches <= most
    assert counter.total.copies == counter.total.blocking == 0


def test_the_table_says_where_it_comes_from(
    on_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "table.csv"
    words = ["--groups", "optimizer", "--encoder", "resnet8", "--batch-size", "4"]
    monkeypatch.setattr(sys, "argv", ["bench_launches.py", *words, "--out", str(out)])
    bench = importlib.import_module("bench_launches")
    monkeypatch.setattr(bench, "choices", lambda _: ["sgd"])
    bench.main()
    lines = out.read_text().splitlines()
    assert any(line.startswith("# commit: ") for line in lines)
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert {row["choice"] for row in rows} == {"optimizer=sgd"}
    by_phase = {row["phase"]: int(row["launches"]) for row in rows}
    assert by_phase.pop("all") == sum(by_phase.values())
    assert {"augment", "encode", "loss", "optimizer"} <= by_phase.keys()
