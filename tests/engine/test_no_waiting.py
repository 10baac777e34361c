"""A step never waits for the device.

Fake tensors have a shape and no values, so whatever would make the host wait for a device's values
(`.item()`, an index by a mask, `nonzero`) raises. Two things can't be run so:

- drawing the augmentation's parameters, which is the host's own work on tensors of the CPU: it is
  done before, with real tensors;
- autocast, a backward pass and an optimiser step on fake CUDA tensors, which want the driver: the
  whole step is run with fake CPU tensors, and up to the loss with fake CUDA ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from tcl_train import build as configs
from tcl_train.data.loader import Batch
from tcl_train.engine.fit import Trainer
from tcl_train.losses import blockwise
from tcl_train.methods.method import StepOutput
from tcl_train.runtime.device import Runtime

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH, SIDE = 6, 16


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


class OneEpoch:
    steps_per_epoch = 10


@contextmanager
def fake_trainer(config: DictConfig, device: str) -> Iterator[tuple[Trainer, Batch]]:
    """A trainer and a batch of fake tensors on the device, with real draws of the augmentation."""
    settings = configs.read_settings(config)
    data: Any = SimpleNamespace(image_size=SIDE, mean=[0.5] * 3, std=[0.25] * 3)
    augment = configs.build_augment(config, data)
    generator = torch.Generator().manual_seed(0)
    drawn = augment.draw(BATCH, SIDE, SIDE, views=settings.views, generator=generator)
    augment.draw = lambda *_, **__: drawn  # type: ignore[method-assign]
    # Autocast to a GPU's precisions wants the driver, too.
    runtime = Runtime(device="cpu", precision="bf16" if device == "cpu" else "fp32", compile=False)
    runtime.device = torch.device(device)
    loss = configs.build_loss(config)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
        encoder = configs.build_encoder(config, image_size=SIDE)
        method = configs.build_method(config, encoder=encoder, loss=loss, num_classes=3)
        trainer = Trainer(
            method=method,
            loader=OneEpoch(),  # type: ignore[arg-type]
            augment=augment,
            optimizer=configs.build_optimizer(config, method),
            schedule=configs.build_schedule(config),
            runtime=runtime,
            seed=0,
            epochs=1,
            views=settings.views,
            view_size=lambda _: None,
            lr=0.1,
            log_every=1,
        )
        images_BCHW = torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.uint8)
        yield trainer, Batch(images_BCHW, torch.empty(BATCH, dtype=torch.int64))


def step_up_to_the_loss(trainer: Trainer, batch: Batch) -> StepOutput:
    trainer.runtime.update = lambda *_: None  # type: ignore[method-assign]
    return trainer.train_step(batch)


@pytest.mark.parametrize(
    "word",
    [f"loss={loss}" for loss in choices("loss")]
    + [f"optimizer={optimizer}" for optimizer in choices("optimizer")],
)
def test_a_whole_step(compose_tiny: Callable[..., DictConfig], word: str) -> None:
    config = compose_tiny(word, "augment=simaug")
    with fake_trainer(config, "cpu") as (trainer, batch):
        before = [p.grad for p in trainer.method.parameters()]
        step = trainer.train_step(batch)
        assert step.loss.shape == ()
        assert before == [None] * len(before)
        assert all(p.grad is not None for p in trainer.method.parameters())
        assert trainer.optimizer.state


@pytest.mark.parametrize("whole", [0, 100], ids=["many blocks", "one block"])
@pytest.mark.parametrize("loss", choices("loss"))
def test_up_to_the_loss_on_a_gpu(
    compose_tiny: Callable[..., DictConfig],
    loss: str,
    whole: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tensor made on the wrong device would be noticed, too."""
    monkeypatch.setitem(blockwise.TILES, "cuda", blockwise.Tile(4, 4, whole))
    config = compose_tiny(f"loss={loss}", "augment=simaug")
    with fake_trainer(config, "cuda") as (trainer, batch):
        assert step_up_to_the_loss(trainer, batch).loss.device.type == "cuda"


@pytest.mark.parametrize("encoder", choices("encoder"))
def test_every_encoder_on_a_gpu(compose_tiny: Callable[..., DictConfig], encoder: str) -> None:
    config = compose_tiny(f"encoder={encoder}")
    with fake_trainer(config, "cuda") as (trainer, batch):
        assert step_up_to_the_loss(trainer, batch).rows_ND.device.type == "cuda"


class Asking(torch.nn.Module):
    """A loss that waits for the device."""

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return z_ND.sum() * y_N.max().item()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loss_that_waits_is_noticed(compose_tiny: Callable[..., Any], device: str) -> None:
    with fake_trainer(compose_tiny(), device) as (trainer, batch):
        trainer.method.loss = Asking()
        with pytest.raises(DataDependentOutputException):
            step_up_to_the_loss(trainer, batch)
