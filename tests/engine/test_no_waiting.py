"""A step never waits for the device.

There are two ways to wait. One is to ask for a value that the device computes (`.item()`, an index
by a mask, `nonzero`): fake tensors have a shape and no values, so that this raises. The other is a
copy between the CPU and the device that returns only when the device has done what was queued
before: the fixture `no_waiting_copies` raises for those.

What is run so, and what is not:

- The augmentation's parameters are the host's own work on tensors of the CPU; they are drawn
  before, with real tensors.
- Autograd's engine wants a driver for CUDA tensors. A whole step is run with fake CPU tensors; with
  fake CUDA ones all but the engine: the forward pass, the backward passes that are written in this
  package, the gradient scaler, and the optimiser's step after made-up gradients.
- A copy from the CPU with non_blocking=True counts as one that does not wait. CUDA promises that of
  pinned memory only, where the loader's images from workers are. The augmentation's parameters,
  indices and labels (a few kilobytes a step) are not pinned: there the host waits at least until
  the driver has taken a copy. With fake tensors it can't be seen whether memory is pinned.
- What cuDNN, cuBLAS or the allocator do inside an operation is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from tcl_train.data import images as images_module
from tcl_train.data.dataset import Split
from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.data.loader import Batch, Loader
from tcl_train.engine.fit import Trainer
from tcl_train.engine.optimizers import MomentumOptimizer
from tcl_train.losses import blockwise

pytestmark = pytest.mark.usefixtures("fake_cuda")

NoWaiting = Callable[[], AbstractContextManager[Any]]

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH, SIDE = 6, 16
FakeTrainer = Callable[[DictConfig, str], AbstractContextManager[tuple[Trainer, Batch]]]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


# ------------------------------------------------------------------ a step


@pytest.mark.parametrize(
    "word",
    [f"loss={loss}" for loss in choices("loss") if loss != "of_method"]
    + [f"optimizer={optimizer}" for optimizer in choices("optimizer")],
)
def test_a_whole_step(
    fake_trainer: FakeTrainer, compose_tiny: Callable[..., DictConfig], word: str
) -> None:
    config = compose_tiny(word, "augment=simaug", "precision=bf16")
    with fake_trainer(config, "cpu") as (trainer, batch):
        before = [p.grad for p in trainer.method.parameters()]
        step = trainer.train_step(batch)
        assert step.loss.shape == ()
        assert before == [None] * len(before)
        assert all(p.grad is not None for p in trainer.method.parameters())
        assert trainer.optimizer.state


@pytest.mark.usefixtures("without_autograd")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("whole", [0, 100], ids=["many blocks", "one block"])
@pytest.mark.parametrize("loss", [loss for loss in choices("loss") if loss != "of_method"])
def test_a_step_on_a_gpu(
    make_up_gradients: Callable[[Trainer], None],
    fake_trainer: FakeTrainer,
    compose_tiny: Callable[..., DictConfig],
    loss: str,
    whole: int,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    no_waiting_copies: NoWaiting,
) -> None:
    """A tensor made on the wrong device would be noticed, too."""
    monkeypatch.setitem(blockwise.TILES, "cuda", blockwise.Tile(4, 4, whole))
    config = compose_tiny(f"loss={loss}", "augment=simaug", f"precision={precision}")
    with fake_trainer(config, "cuda") as (trainer, batch):
        make_up_gradients(trainer)
        with no_waiting_copies():
            step = trainer.train_step(batch)
        assert step.loss.device.type == "cuda"
        assert step.loss.dtype == torch.float32
        encoded = torch.float32 if precision == "fp32" else torch.float16
        assert step.rows_ND.dtype == encoded


@pytest.mark.usefixtures("without_autograd")
@pytest.mark.parametrize("optimizer", choices("optimizer"))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_update_on_a_gpu(
    make_up_gradients: Callable[[Trainer], None],
    fake_trainer: FakeTrainer,
    compose_tiny: Callable[..., DictConfig],
    optimizer: str,
    precision: str,
    no_waiting_copies: NoWaiting,
) -> None:
    """With a gradient scaler, our own optimisers do wait: they do not take `found_inf` as torch's
    fused ones do, so that the scaler asks for it before each step."""
    config = compose_tiny(f"optimizer={optimizer}", f"precision={precision}")
    with fake_trainer(config, "cuda") as (trainer, batch):
        make_up_gradients(trainer)
        if precision == "fp16" and isinstance(trainer.optimizer, MomentumOptimizer):
            with pytest.raises(DataDependentOutputException):
                trainer.train_step(batch)
            return
        with no_waiting_copies():
            trainer.train_step(batch)
        assert len(trainer.optimizer.state) == len(list(trainer.method.parameters()))


@pytest.mark.usefixtures("without_autograd")
@pytest.mark.parametrize(
    "word",
    [f"{group}={name}" for group in ("encoder", "augment", "method") for name in choices(group)],
)
def test_every_choice_on_a_gpu(
    make_up_gradients: Callable[[Trainer], None],
    fake_trainer: FakeTrainer,
    compose_tiny: Callable[..., DictConfig],
    word: str,
    no_waiting_copies: NoWaiting,
) -> None:
    needed = {"method=cross_entropy": ["loss=ce"], "encoder=timm": ["encoder.name=resnet10t"]}
    words = [word, *needed.get(word, [])]
    with fake_trainer(compose_tiny(*words), "cuda") as (trainer, batch):
        make_up_gradients(trainer)
        with no_waiting_copies():
            assert trainer.train_step(batch).rows_ND.device.type == "cuda"


# ------------------------------------------------------------------ the loader


@pytest.mark.parametrize("fits", [True, False])
def test_a_batch_of_images_in_memory(
    no_waiting_copies: NoWaiting, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """But for the first one, with which all images move to the device, if they fit."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9 if fits else 1, 10**9))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)  # which wants a driver
    cuda = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = ArrayImages(torch.empty(20, 3, SIDE, SIDE, dtype=torch.uint8))
        split = Split(images, torch.empty(20, dtype=torch.int64))
        loader = Loader(split, batch_size=BATCH, supervised=True, seed=0, device=cuda)
        batches = loader._epoch(0, 0)
        next(batches)
        with no_waiting_copies():
            for batch in batches:
                assert {tensor.device.type for tensor in (*batch.images, batch.labels_B)} == {
                    "cuda"
                }


def test_a_batch_of_decoded_images(
    monkeypatch: pytest.MonkeyPatch,
    no_waiting_copies: NoWaiting,
) -> None:
    """Pinning wants a driver: that it is asked for must do."""

    def decoded(*_: Any, pin_memory: bool, **__: Any) -> list[Tensor]:
        assert pin_memory
        return [[torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.uint8)]]

    monkeypatch.setattr(images_module, "DataLoader", decoded)
    images, index_B = FileImages(["a.png"] * BATCH, SIDE, workers=0), torch.arange(BATCH)
    with FakeTensorMode(allow_non_fake_inputs=True), no_waiting_copies():
        (images_BCHW,) = images.batches([index_B], torch.device("cuda"))
        assert images_BCHW.device.type == "cuda"


# ------------------------------------------------------------------ what would be noticed


class Asking(torch.nn.Module):
    """A loss that waits for the device."""

    def at(self, progress: float) -> Asking:
        return self

    def forward(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return z_ND.sum() * y_N.max().item()


@pytest.mark.usefixtures("without_autograd")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_loss_that_waits_is_noticed(
    fake_trainer: FakeTrainer, compose_tiny: Callable[..., Any], device: str
) -> None:
    with fake_trainer(compose_tiny(), device) as (trainer, batch):
        trainer.method.loss = Asking()
        with pytest.raises(DataDependentOutputException):
            trainer.train_step(batch)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x[torch.arange(2)],
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.where(x > 0, x, torch.tensor(0.0)),
    ],
)
def test_a_copy_that_waits_is_noticed(
    work: Callable[[Tensor], Any], no_waiting_copies: NoWaiting
) -> None:
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with no_waiting_copies(), pytest.raises(AssertionError, match=r"to cuda|to cpu|of the CPU"):
            work(x)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.copy_(torch.ones(3), non_blocking=True),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x * torch.tensor(2.0),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.full((2,), 3.0, device=x.device),
        lambda x: x.clone().to(torch.float16),
        lambda x: torch.ones(len(x), device="cpu").to(torch.float16),
    ],
)
def test_what_does_not_wait_is_let_through(
    work: Callable[[Tensor], Any], no_waiting_copies: NoWaiting
) -> None:
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        with no_waiting_copies():
            work(x)
