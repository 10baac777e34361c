"""The training loop."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from tcl_train.data.loader import Batch, Loader
from tcl_train.data.views import ViewPlan
from tcl_train.engine.gradients import Gradients
from tcl_train.engine.meter import Meter
from tcl_train.engine.nonfinite import NonFinite
from tcl_train.engine.optimizers import Optimizer
from tcl_train.engine.profile import Profile
from tcl_train.engine.schedule import Schedule
from tcl_train.errors import Interrupted, TrainingError
from tcl_train.methods.diagnostics import find_collapse, similarity_histograms
from tcl_train.methods.method import Method, StepOutput
from tcl_train.methods.progress import along_cosine
from tcl_train.run.checkpoint import Checkpoints
from tcl_train.run.logs import progress_bar
from tcl_train.run.sink import Sink
from tcl_train.runtime.compilation import uncompiled
from tcl_train.runtime.device import Runtime
from tcl_train.runtime.signals import Signals

log = logging.getLogger(__name__)

NO_PROFILE = Profile()
ON_COLLAPSE = ("warn", "stop")
HISTOGRAMS = 10  # of a run, for TensorBoard
Watching = Callable[[nn.Module, int], dict[str, float]]


def unwatched(encoder: nn.Module, epochs_done: int) -> dict[str, float]:  # noqa: ARG001
    """No monitor."""
    return {}


@dataclass
class Trainer:
    """Everything that pretraining changes, and everything it needs.

    `step` counts optimiser steps; the epoch, the batch in it, the order of images, their
    augmentation and the learning rate all follow from it and the seed.
    """

    method: Method
    loader: Loader
    views: ViewPlan
    gradients: Gradients
    optimizer: Optimizer
    schedule: Schedule
    runtime: Runtime
    epochs: int
    lr: float
    log_every: int
    on_collapse: str = "warn"
    nonfinite: NonFinite = field(default_factory=NonFinite)
    monitor: Watching = unwatched  # of the encoder, after each epoch: scalars to log
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
                    if signals.agreed() or checkpoints.overdue():
                        break
                ended = self.step % per_epoch == 0
                if ended:
                    self.say_epoch(epoch + 1, scalars)
                    watched = self.monitor(self.method.encoder, epoch + 1)
                    if watched:
                        sink.write(self.step, epoch, watched)
                    self.show_similarities(sink, step, epoch + 1)
                due = ended and (checkpoints.due(epoch + 1) or self.step == self.total_steps)
                stopped = signals.agreed()
                if due or stopped or checkpoints.overdue():
                    self.check_finite(step)
                    self.check_weights()
                    checkpoints.save(self.state_dict(), epochs_done=epoch + 1 if due else None)
                if stopped:
                    raise Interrupted(stopped)
            stopped = signals.agreed()  # it may have come while the last checkpoint was written
            if stopped:
                raise Interrupted(stopped)

    def train_step(self, batch: Batch) -> StepOutput:
        """Views, loss, gradient, update. Nothing here waits for the device, unless losses that are
        not finite are skipped."""
        epoch, progress = self.step // self.loader.steps_per_epoch, self.step / self.total_steps
        self.set_rates(progress)
        views = self.views.draw(
            batch.images,
            self.loader.places,
            batch_size=len(batch.labels_B),
            epoch=epoch,
            step=self.step,
        )
        before = self.nonfinite.remember(self.method)
        step = self.gradients(self.method, views, batch.labels_B, progress=progress, step=self.step)
        if self.nonfinite.may_update(step.loss, self.method, before, step=self.step + 1):
            self.method.before_update(progress)
            self.runtime.update(self.optimizer)
            self.method.after_update(progress)
        self.step += 1
        self.meter.images += len(batch.labels_B)
        return step

    def learning_rate(self, step: int) -> float:
        return self.lr * self.schedule(step, self.loader.steps_per_epoch, self.epochs)

    def pixels_seen(self) -> int:
        """Of all views up to this step."""
        per_epoch = self.loader.steps_per_epoch
        steps = [min(per_epoch, self.step - start) for start in range(0, self.step, per_epoch)]
        pixels = [self.views.pixels(epoch) for epoch in range(len(steps))]
        return self.loader.batch_size * sum(map(operator.mul, steps, pixels))

    def set_rates(self, progress: float) -> None:
        """The learning rate of each group, and its weight decay where that changes."""
        lr = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            fixed = group.get("fixed_lr", False)  # which checkpoints of earlier versions lack
            group["lr"] = (self.lr if fixed else lr) * group.get("lr_scale", 1.0)
            if "weight_decay_ends" in group:
                first, last = group["weight_decay_ends"]
                group["weight_decay"] = along_cosine(first, last, progress)

    def measure(self, step: StepOutput) -> dict[str, float]:
        """The scalars of a logging step; only here does the loop wait for the device."""
        with uncompiled():
            values = {"loss": step.loss.detach(), **self.method.diagnostics(step)}
        numbers = torch.stack([value.to(step.loss.dtype) for value in values.values()]).tolist()
        scalars = dict(zip(values, numbers, strict=True))
        self.check_finite(step)
        return {
            **scalars,
            "lr": self.learning_rate(self.step - 1),
            **self.meter.lap(),
        }

    def check_finite(self, step: StepOutput) -> None:
        if self.nonfinite.stops and not math.isfinite(step.loss.item()):
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
        chance = scalars.get("chance_level")
        log.info(
            "epoch %d/%d: loss %.4f%s, lr %.3g, %.0f images/s, "
            "similarity of positives %.3f, of negatives %.3f",
            epochs_done,
            self.epochs,
            scalars["loss"],
            "" if chance is None else f" (chance {chance:.4f})",
            scalars["lr"],
            self.meter.total()["images_per_second"],
            scalars["positive_similarity"],
            scalars["negative_similarity"],
        )
        collapse = find_collapse(scalars, self.method.when_collapsed)
        if collapse and collapse.is_certain and self.on_collapse == "stop":
            raise TrainingError(f"epoch {epochs_done}: {collapse.words}")
        if collapse:
            log.warning("epoch %d: %s", epochs_done, collapse.words)

    def show_similarities(self, sink: Sink, step: StepOutput, epochs_done: int) -> None:
        """Histograms of the last batch's pairs, after some epochs with the last among them."""
        shown, shown_before = (
            n * HISTOGRAMS // self.epochs for n in (epochs_done, epochs_done - 1)
        )
        if shown > shown_before and sink.board.writes:
            for name, counts_K in similarity_histograms(step.rows_ND, step.labels_N).items():
                sink.board.histogram(self.step, f"similarity/{name}", counts_K, low=-1, high=1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "runtime": self.runtime.state_dict(),
            "step": self.step,
            "meter": self.meter.state_dict(),
            "about": self.about,
            "skipped": self.nonfinite.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Strict: every key must match."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.runtime.load_state_dict(state["runtime"])
        self.step = state["step"]
        self.meter = Meter(**state["meter"])
        self.nonfinite.skipped = state.get("skipped", 0)  # which earlier versions do not store
