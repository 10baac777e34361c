"""Learning-rate schedules: pure functions of the step.

`schedule(step, steps_per_epoch, epochs)` gives the factor on the peak learning rate for step 0,
1, ... of a run; nothing is kept between calls, so a resumed run needs no state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tcl_train import checks


class Schedule(Protocol):
    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> float: ...


@dataclass(frozen=True)
class WarmupDecay:
    """Linear warm-up, then from 1 to `floor` (a share of the peak) along `curve`."""

    warmup_epochs: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        checks.number("warmup_epochs", self.warmup_epochs, at_least=0)
        checks.number("floor", self.floor, at_least=0, at_most=1)

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if step < warmup_steps:
            return warmup(step, warmup_steps)
        progress = (step - warmup_steps) / max(1.0, epochs * steps_per_epoch - warmup_steps)
        return self.floor + (1 - self.floor) * self.curve(min(progress, 1))

    def curve(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at 1."""
        raise NotImplementedError


class Cosine(WarmupDecay):
    """Linear warm-up, then half a cosine from 1 to `floor` (a share of the peak)."""

    def curve(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


class Linear(WarmupDecay):
    """Linear warm-up, then a straight line from 1 to `floor` (a share of the peak)."""

    def curve(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True)
class Step:
    """Linear warm-up, then times `gamma` at each of the `milestones` (shares of the run)."""

    milestones: Sequence[float] = (0.6, 0.8, 0.9)
    gamma: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        for i, milestone in enumerate(checks.several("milestones", self.milestones, at_least=0)):
            checks.number(f"milestones[{i}]", milestone, above=0, below=1)
        checks.number("gamma", self.gamma, above=0, at_most=1)
        checks.number("warmup_epochs", self.warmup_epochs, at_least=0)

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        warmup_steps = self.warmup_epochs * steps_per_epoch
        # A share of the run that is a whole step must not be missed by rounding.
        steps = epochs * steps_per_epoch
        passed = sum(step >= m * steps - 1e-6 for m in self.milestones)
        return warmup(step, warmup_steps) * self.gamma**passed


@dataclass(frozen=True)
class Constant:
    """Linear warm-up, then 1."""

    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        checks.number("warmup_epochs", self.warmup_epochs, at_least=0)

    def __call__(self, step: int, steps_per_epoch: int, epochs: int) -> float:  # noqa: ARG002
        return warmup(step, self.warmup_epochs * steps_per_epoch)


def warmup(step: int, warmup_steps: float) -> float:
    """Grows linearly to 1 at step `warmup_steps` - 1, then stays 1."""
    return 1.0 if step + 1 >= warmup_steps else (step + 1) / warmup_steps


def by_epoch(
    name: str, given: int | Sequence[Sequence[int]] | Mapping[int, int] | None, epochs: int
) -> Callable[[int], int | None]:
    """A setting as a function of the epoch (0, 1, ...): one value for all, or [[0, 24], [8, 32]],
    which is 24 from epoch 0 on and 32 from epoch 8 on. {0: 24, 8: 32} says the same, but can't be
    replaced from the command line, since Hydra merges mappings.

    Raises:
        TypeError, ValueError: an epoch or a value is not a whole number, epoch 0 has no value, or
            an epoch is beyond the `epochs` of the run.
    """
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
        if given is not None:
            checks.integer(name, given, at_least=1)
        return lambda epoch: given  # noqa: ARG005
    pairs = [*given.items()] if isinstance(given, Mapping) else given
    values = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"{name} must be pairs of [epoch, value], got {pair!r}")
        epoch = checks.integer(f"an epoch of {name}", pair[0], at_least=0)
        values[epoch] = checks.integer(f"{name} from epoch {epoch} on", pair[1], at_least=1)
    if 0 not in values:
        raise ValueError(f"{name} must say what it is from epoch 0 on, got {given}")
    if max(values) >= epochs:
        raise ValueError(
            f"{name} changes at epoch {max(values)} (counted from 0), beyond the run's {epochs} "
            "epochs"
        )
    return lambda epoch: values[max(begin for begin in values if begin <= epoch)]
