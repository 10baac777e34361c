"""The training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.profiler import record_function

from tcl_train.data.augment import Augment
from tcl_train.data.loader import Batch, Loader
from tcl_train.engine.meter import Meter
from tcl_train.engine.optimizers import Optimizer
from tcl_train.engine.profile import Profile
from tcl_train.engine.schedule import Schedule
from tcl_train.errors import Interrupted, TrainingError
from tcl_train.methods.diagnostics import collapse_warning
from tcl_train.methods.method import Method, StepOutput
from tcl_train.run.checkpoint import Checkpoints
from tcl_train.run.logs import progress_bar
from tcl_train.run.sink import Sink
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.randomness import generator
from tcl_train.runtime.signals import Signals

log = logging.getLogger(__name__)

NO_PROFILE = Profile()


@dataclass
class Trainer:
    """Everything that pretraining changes, and everything it needs.

    `step` counts optimiser steps; the epoch, the batch in it, the order of images, their
    augmentation and the learning rate all follow from it and the seed.
    """

    method: Method
    loader: Loader
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    runtime: Runtime
    seed: int
    epochs: int
    views: int
    view_size: Callable[[int], int | None]  # by epoch; None: that of the images
    lr: float
    log_every: int
    about: dict[str, Any] = field(default_factory=dict)  # stored with each checkpoint
    step: int = 0
    meter: Meter = field(default_factory=Meter)

    PARTS: ClassVar = (
        "method",
        "optimizer",
        "runtime",
        "step",
        "meter",
        "about",
    )  # of a checkpoint

    @property
    def total_steps(self) -> int:
        return self.epochs * self.loader.steps_per_epoch

    def fit(
        self,
        sink: Sink,
        checkpoints: Checkpoints,
        signals: Signals,
        profile: Profile = NO_PROFILE,
    ) -> None:
        """Trains from `step` to the end.

        Raises:
            TrainingError: the loss is not finite; the last checkpoint is from before.
            Interrupted: a signal came; a checkpoint of this very step was written.
        """
        per_epoch = self.loader.steps_per_epoch
        self.method.train()
        bar = progress_bar(total=self.total_steps, done=self.step)
        with bar, self.meter.running(), signals.caught(), profile.running():
            while self.step < self.total_steps:
                epoch, first = divmod(self.step, per_epoch)
                for batch in self.meter.timed(self.loader.epoch(epoch, first)):
                    step = self.train_step(batch)
                    bar.update()
                    profile.step()
                    if self.step % self.log_every == 0 or self.step % per_epoch == 0:
                        scalars = self.measure(step)
                        sink.write(self.step, epoch, scalars)
                        bar.set_postfix_str(
                            f"epoch {epoch + 1}/{self.epochs}, loss {scalars['loss']:.3f}, "
                            f"{scalars['images_per_second']:.0f} images/s"
                        )
                    if signals.received:
                        break
                ended = self.step % per_epoch == 0
                if ended:
                    self.say_epoch(epoch + 1, scalars)
                due = ended and (checkpoints.due(epoch + 1) or self.step == self.total_steps)
                stopped = signals.received
                if due or stopped:
                    self.check_finite(step)
                    self.check_weights()
                    checkpoints.save(self.state_dict(), epochs_done=epoch + 1 if due else None)
                if stopped:
                    raise Interrupted(stopped)
            if signals.received:  # it came while the last checkpoint was written
                raise Interrupted(signals.received)

    def train_step(self, batch: Batch) -> StepOutput:
        """Views, loss, gradient, update. Nothing here waits for the device."""
        self.set_learning_rate()
        draw = generator(self.seed, "augment", self.step)
        with record_function("augment"):
            epoch = self.step // self.loader.steps_per_epoch
            augment = self.augment.with_size(self.view_size(epoch))
            views_NCHW = augment(batch.images_BCHW, views=self.views, generator=draw)
        with self.runtime.autocast():
            step = self.method(views_NCHW, batch.labels_B)
        self.runtime.update(self.optimizer, step.loss)
        self.step += 1
        self.meter.images += len(batch.labels_B)
        return step

    def set_learning_rate(self) -> None:
        factor = self.schedule(self.step, self.loader.steps_per_epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor

    def measure(self, step: StepOutput) -> dict[str, float]:
        """The scalars of a logging step; only here does the loop wait for the device."""
        values = {"loss": step.loss.detach(), **self.method.diagnostics(step)}
        numbers = torch.stack([value.to(step.loss.dtype) for value in values.values()]).tolist()
        scalars = dict(zip(values, numbers, strict=True))
        self.check_finite(step)
        return {**scalars, "lr": self.optimizer.param_groups[0]["lr"], **self.meter.lap()}

    def check_finite(self, step: StepOutput) -> None:
        if not math.isfinite(step.loss.item()):
            raise self.diverged(f"the loss is {step.loss.item()} at step {self.step}")

    def check_weights(self) -> None:
        """A loss is from before its update; what is saved, weights and statistics of normalisation
        layers, must be finite, too."""
        state = self.method.state_dict()
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        if not all(finite):
            name = list(state)[finite.index(False)]
            raise self.diverged(f"{name} is not finite after step {self.step}")

    def diverged(self, said: str) -> TrainingError:
        return TrainingError(
            f"{said}; try a lower lr (now {self.lr:g}), warm-up (scheduler.warmup_epochs) or "
            "precision=fp32"
        )

    def say_epoch(self, epochs_done: int, scalars: dict[str, float]) -> None:
        log.info(
            "epoch %d/%d: loss %.4f (chance %.4f), lr %.3g, %.0f images/s, "
            "similarity of positives %.3f, of negatives %.3f",
            epochs_done,
            self.epochs,
            scalars["loss"],
            scalars["chance_level"],
            scalars["lr"],
            self.meter.total()["images_per_second"],
            scalars["positive_similarity"],
            scalars["negative_similarity"],
        )
        warning = collapse_warning(scalars)
        if warning:
            log.warning("epoch %d: %s", epochs_done, warning)

    def state_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "runtime": self.runtime.state_dict(),
            "step": self.step,
            "meter": self.meter.state_dict(),
            "about": self.about,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Strict: every key must match."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.runtime.load_state_dict(state["runtime"])
        self.step = state["step"]
        self.meter = Meter(**state["meter"])
