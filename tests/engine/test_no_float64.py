"""A step computes nothing in float64 on its device, since Apple's GPUs have none. (Fake tensors of
such a GPU cannot be filled; those of another stand in.)"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch._subclasses import FakeTensorMode

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet

CONFIGS = Path(__file__).parents[2] / "configs"


def words() -> list[str]:
    return [
        f"{group}={path.stem}"
        for group in ("loss", "augment", "optimizer", "method")
        for path in sorted((CONFIGS / group).glob("*.yaml"))
        if path.stem not in ("cross_entropy", "of_method")
    ]


@pytest.mark.usefixtures("without_autograd", "fake_cuda")
@pytest.mark.parametrize("word", words())
def test_a_step_has_no_float64(
    fake_trainer: Callable[..., AbstractContextManager[Any]],
    make_up_gradients: Callable[[Any], None],
    compose_tiny: Callable[..., DictConfig],
    no_float64: Callable[..., AbstractContextManager[Any]],
    word: str,
) -> None:
    with fake_trainer(compose_tiny(word), "cuda") as (trainer, batch):
        make_up_gradients(trainer)
        with no_float64("cuda"):
            step = trainer.train_step(batch)
        assert step.loss.device.type == "cuda"


@pytest.mark.parametrize(
    "words", [["loss=tcl"], ["loss=hard"], ["loss=ce"], ["probe=sgd"]], ids=str
)
def test_diagnostics_and_evaluation_have_no_float64(
    compose_tiny: Callable[..., DictConfig],
    no_float64: Callable[..., AbstractContextManager[Any]],
    few_digits: DataSet,
    words: list[str],
) -> None:
    """On the CPU, since they ask for values."""
    short = ["probe.epochs=1"] if words == ["probe=sgd"] else []
    run = build_run(compose_tiny(*words, *short, "batch_size=32"), data=few_digits)
    step = run.trainer.train_step(next(run.trainer.loader.epoch(0)))
    with no_float64("cpu"):
        assert run.trainer.measure(step)
        assert run.evaluator.measure(run.trainer.method.encoder).values["top1"] > 0


@pytest.mark.usefixtures("fake_cuda")
def test_float64_is_noticed(no_float64: Callable[..., AbstractContextManager[Any]]) -> None:
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with no_float64("cuda"), pytest.raises(AssertionError, match="float64"):
            x.double()
        with no_float64("cuda"):
            x.half()
