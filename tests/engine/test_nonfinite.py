"""Steps whose loss is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from tcl_train.building.run import build_run
from tcl_train.data.dataset import DataSet
from tcl_train.engine.fit import Trainer
from tcl_train.errors import TrainingError
from tcl_train.run import checkpoint
from tcl_train.run.checkpoint import Checkpoints
from tcl_train.run.sink import UnwrittenSink
from tcl_train.runtime.signals import Signals


@pytest.fixture
def new_trainer(
    compose_tiny: Callable[..., DictConfig], few_digits: DataSet
) -> Callable[..., Trainer]:
    def new(*words: str, bad_steps: tuple[int, ...] = ()) -> Trainer:
        """Views of the bad steps (1, 2, ...) hold a NaN."""
        config = compose_tiny("epochs=2", "batch_size=32", "log_every=1", *words)
        trainer = build_run(config, data=few_digits).trainer

        def spoil(_: Any, given: tuple[torch.Tensor]) -> None:
            if trainer.step + 1 in bad_steps:
                given[0][0, 0, 0, 0] = float("nan")

        trainer.method.encoder.register_forward_pre_hook(spoil)
        return trainer

    return new


def fit(trainer: Trainer, folder: Path) -> list[float]:
    losses = []

    class Keep(UnwrittenSink):
        def write(self, step: int, epoch: int, scalars: Mapping[str, float]) -> None:
            losses.append(scalars["loss"])

    trainer.fit(Keep(), Checkpoints(folder, every=1, keep=1), Signals())
    return losses


def test_by_default_the_run_stops(new_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss is nan at step 3"):
        fit(new_trainer(bad_steps=(3,)), tmp_path)


def test_skipped_steps_change_nothing(
    new_trainer: Callable[..., Trainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = new_trainer("on_nonfinite=skip", bad_steps=(3,))
    trainer.method.train()
    batches = iter([*trainer.loader.epoch(0), *trainer.loader.epoch(1)])
    for _ in range(2):
        trainer.train_step(next(batches))
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.train_step(next(batches))
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (trainer.step, trainer.nonfinite.skipped) == (3, 1)
    assert "step 3: the loss is nan; skipped, 1 of at most 10" in caplog.text
    trainer.train_step(next(batches))
    assert not torch.equal(next(trainer.method.parameters()), next(iter(before.values())))


def test_a_run_goes_on_and_remembers_how_many_it_skipped(
    new_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = new_trainer("on_nonfinite=skip", bad_steps=(3, 5, 10))
    losses = fit(trainer, tmp_path)
    assert [i + 1 for i, loss in enumerate(losses) if loss != loss] == [3, 5, 10]
    assert all(p.isfinite().all() for p in trainer.method.state_dict().values())
    again = new_trainer("on_nonfinite=skip")
    again.load_state_dict(checkpoint.load(tmp_path / "last.pt"))
    assert again.nonfinite.skipped == 3


def test_too_many_skipped_steps_stop_the_run(
    new_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = new_trainer("on_nonfinite=skip", "nonfinite_limit=2", bad_steps=(1, 2, 4, 5))
    with pytest.raises(TrainingError, match=r"nan at step 4, and 2 steps were skipped.*limit"):
        fit(trainer, tmp_path)
