"""What is compiled, for which runs, and how often. The programs run by torch's own operations
here (backend "eager"); tests/runtime/test_compile.py has generated code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.errors import RequestError
from tcl_train.evaluation.features import frozen
from tcl_train.runtime import compilation
from tcl_train.runtime.compilation import Compilation, seconds_gained
from tcl_train.runtime.device import Runtime

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORDS = ("batch_size=32", "compile=true", "encoder.width=4")


# ------------------------------------------------------------------ for which runs


def test_a_longer_run_gains_more_and_each_size_of_views_costs() -> None:
    assert seconds_gained(1, 1) < 0 < seconds_gained(10**6, 1)
    assert seconds_gained(10**6, 2) < seconds_gained(10**6, 1)


@pytest.mark.parametrize(
    ("passes", "triton", "compiles", "said"),
    [
        (10**6, True, True, "compile on (auto: saves about 16 minutes in 1000000 passes)"),
        (1000, True, False, "compile off (auto: 1000 passes are too few to win back the"),
        (10**6, False, False, "compile off (auto: there is no Triton"),
    ],
)
def test_auto_compiles_long_runs_on_a_gpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    passes: int,
    triton: bool,
    compiles: bool,
    said: str,
) -> None:
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda _: triton or None)
    found = Compilation("auto", CUDA)
    with caplog.at_level(logging.INFO, "tcl_train"):
        found.decide(passes=passes, sizes=1)
    assert found.compiles == compiles
    assert said in caplog.text


@pytest.mark.parametrize(
    ("choice", "compiles"), [("auto", False), ("true", True), (True, True), (False, False)]
)
def test_on_the_cpu_auto_is_false(
    choice: str | bool, compiles: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = Compilation(choice, CPU)
    with caplog.at_level(logging.INFO, "tcl_train"):
        found.decide(passes=10**9, sizes=1)
    assert found.compiles == compiles
    assert not caplog.text


def test_graphs_are_for_whole_batches_on_a_gpu() -> None:
    with pytest.raises(RequestError, match="compile=cuda_graphs needs a CUDA device"):
        Compilation("cuda_graphs", CPU).decide(passes=1, sizes=1)
    with pytest.raises(RequestError, match=r"compile=cuda_graphs with chunk_size.*compile=true"):
        Compilation("cuda_graphs", CUDA).decide(passes=1, sizes=1, chunks=2)


def test_graphs_are_recorded_of_the_encoder_alone(
    monkeypatch: pytest.MonkeyPatch, compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> None:
    method = build_run(compose_tiny("batch_size=32"), data=few_digits).trainer.method
    modes: dict[str, str | None] = {}
    for name, part in method.named_children():
        monkeypatch.setattr(part, "compile", partial(_note, modes, name))
    found = Compilation("cuda_graphs", CUDA)
    found.decide(passes=1, sizes=1)
    found.of_parts(method)
    assert modes == {"encoder": "reduce-overhead", "projector": None, "loss": None}


def _note(modes: dict[str, str | None], name: str, *, dynamic: bool, mode: str | None) -> None:
    assert not dynamic
    modes[name] = mode


@pytest.mark.parametrize("given", ["maybe", "1"])
def test_other_values_are_refused(refused: Callable[..., str], given: str) -> None:
    assert "compile must be one of auto, true, false, cuda_graphs" in refused(f"compile={given}")


def test_a_gpus_graphs_are_refused_on_the_cpu(
    refused: Callable[..., str], tiny_words: Callable[..., list[str]]
) -> None:
    assert "compile=cuda_graphs needs" in refused(*tiny_words("compile=cuda_graphs"))


# ------------------------------------------------------------------ what is compiled


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The compiler's counts; what it makes runs by torch's own operations."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=_whole))
    limit = torch._dynamo.config.recompile_limit
    yield counters
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


GRAPHS: list[Any] = []


def _whole(graph: Any, inputs: Any) -> Any:
    GRAPHS.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)])
    return graph.forward


def losses(run: Any, epochs: int) -> list[float]:
    trainer = run.trainer
    trainer.method.train()
    found = []
    for epoch in range(epochs):
        for batch in trainer.loader.epoch(epoch):
            step = trainer.train_step(batch)
            found.append(trainer.measure(step)["loss"])
        with frozen(trainer.method.encoder):
            trainer.method.encoder(torch.zeros(7, 3, 9, 9))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
@pytest.mark.parametrize("method", ["contrastive", "byol", "mocov2"])
def test_a_step_has_one_program_a_part_and_no_break(
    counters: Any,
    compose_tiny: Callable[..., DictConfig],
    few_digits: DataSet,
    recipes: dict[str, list[str]],
    method: str,
) -> None:
    """And the numbers are those of a run that is not compiled."""
    words = [*recipes.get(method, [f"method={method}"]), *WORDS]
    plain = losses(build_run(compose_tiny(*words, "compile=false"), data=few_digits), 2)
    assert not counters["stats"]
    assert losses(build_run(compose_tiny(*words), data=few_digits), 2) == pytest.approx(plain)
    assert not counters["graph_break"]
    parts = {"contrastive": 3, "byol": 4, "mocov2": 3}  # encoder, projector, ... and the teacher
    assert counters["stats"]["unique_graphs"] == parts[method]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
def test_each_size_of_views_is_compiled_once(
    counters: Any, compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> None:
    """More of them than the compiler would take by itself."""
    sizes = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    plan = [[epoch, size] for epoch, size in enumerate(sizes)]
    words = (*WORDS, f"epochs={len(sizes)}", f"view_size={plan}")
    GRAPHS.clear()
    losses(build_run(compose_tiny(*words), data=few_digits), len(sizes))
    images = [shapes for shapes in GRAPHS if any(len(s) == 4 and s[1] == 3 for s in shapes)]
    of_views = [next(s for s in shapes if len(s) == 4 and s[2] > 3) for shapes in images]
    assert [shape[2] for shape in of_views] == sizes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler, of itself
def test_a_function_is_compiled_where_the_run_compiles(counters: Any) -> None:
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    runtime = Runtime(device="cpu", precision="fp32", compile="true")
    assert runtime.compiled(double) is double
    runtime.compilation.decide(passes=1, sizes=1)
    assert torch.equal(runtime.compiled(double)(torch.ones(3)), torch.full((3,), 2.0))
    assert counters["stats"]["unique_graphs"] == 1
