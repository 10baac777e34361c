"""A run with a compiled encoder, on the CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl_train.engine.optimizers import lars_rule
from tcl_train.run import checkpoint
from tcl_train.run.directory import RunDir

COMPILERS = ("g++", "c++", "clang++")
WORDS = ("batch_size=32", "epochs=2")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """torch's, with nothing compiled before, which leaves nothing in the user's cache."""
    if not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"compiling for a CPU needs a C++ compiler: {', '.join(COMPILERS)}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # leaves no processes behind
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def losses(run_dir: RunDir) -> list[float]:
    lines = map(json.loads, run_dir.metrics.read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
@pytest.mark.usefixtures("compiler", "on_few_digits")
def test_a_compiled_run_trains_as_an_uncompiled_one_and_its_checkpoint_is_the_same(
    tmp_path: Path, train_tiny: Callable[..., dict[str, Any]]
) -> None:
    """Fused operations round otherwise: after ten steps the losses differ by 2e-7 of their value,
    and from step to step by 1e-3 to 1e-2. The tolerance lies between."""
    plain, compiled = RunDir(tmp_path / "plain"), RunDir(tmp_path / "compiled")
    train_tiny(plain, *WORDS)
    assert not torch._dynamo.utils.counters["stats"]
    train_tiny(compiled, *WORDS, "compile=true")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(losses(plain)) == 10
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    weights = [checkpoint.load(run.checkpoints / "last.pt")["method"] for run in (plain, compiled)]
    assert list(weights[1]) == list(weights[0])
    assert not any("_orig_mod" in name for name in weights[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("shapes", [[(8, 3, 3, 3), (5, 8)], [(8,), (5,)]])
@pytest.mark.parametrize("clip", [False, True])
def test_the_compiled_update_of_lars_is_one_graph_whatever_the_learning_rate(
    shapes: list[tuple[int, ...]], clip: bool
) -> None:
    g = torch.Generator().manual_seed(0)
    plain = [[torch.randn(s, generator=g) for s in shapes] for _ in range(3)]
    compiled = [[x.clone() for x in tensors] for tensors in plain]
    rule = torch.compile(lars_rule, dynamic=False)
    for lr in (0.3, 0.2, 0.1):
        numbers = {"momentum": 0.9, "trust": 0.02, "clip": clip, "weight_decay": 0.1}
        lars_rule(*plain, torch.tensor(lr), **numbers)
        rule(*compiled, torch.tensor(lr), **numbers)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    for found, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
