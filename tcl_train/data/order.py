"""In which order pretraining sees images: functions of (seed, epoch).

N: images; C: classes; n_c: images of a class; K: images of a class side by side.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.runtime.randomness import generator

SAMPLERS = ("shuffle", "classes", "balanced")


class Order(Protocol):
    """`length`: the images of an epoch; the same for all epochs."""

    length: int

    def __call__(self, seed: int, epoch: int) -> Tensor:
        """Indices (length,), int64."""
        ...


class Shuffled:
    """Every image once."""

    def __init__(self, count: int) -> None:
        self.length = count

    def __call__(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(self.length, generator=generator(seed, "order", epoch))


class ByClass:
    """K images of a class side by side, then K of another one: the P x K batches of metric
    learning, where each anchor has K - 1 other images of its class. Every class has its
    floor(n_c / K) groups spread evenly over the epoch, so that a batch has as many classes as it
    can; the images that are left over are others each epoch."""

    def __init__(self, labels_N: Tensor, images_per_class: int) -> None:
        self.images_per_class = checks.integer(
            "data.images_per_class", images_per_class, at_least=2
        )
        self.places = _places_of_classes(labels_N)
        groups = sum(len(places) // images_per_class for places in self.places)
        self.length = groups * images_per_class

    def __call__(self, seed: int, epoch: int) -> Tensor:
        g = generator(seed, "order", epoch)
        groups, when = [], []
        for places in self.places:
            count = len(places) // self.images_per_class
            chosen = _shuffled(places, g)[: count * self.images_per_class]
            groups.append(chosen.view(count, self.images_per_class))
            when.append((torch.arange(count) + torch.rand(count, generator=g)) / max(1, count))
        return torch.cat(groups)[torch.cat(when).argsort()].flatten()


class Balanced:
    """As many images of each class: those of a small class several times, of a large class some,
    others each epoch. An epoch is as long as the data set."""

    def __init__(self, labels_N: Tensor) -> None:
        self.places = _places_of_classes(labels_N)
        self.per_class = max(1, len(labels_N) // len(self.places))
        self.length = self.per_class * len(self.places)

    def __call__(self, seed: int, epoch: int) -> Tensor:
        g = generator(seed, "order", epoch)
        chosen = []
        for places in self.places:
            rounds = -(-self.per_class // len(places))
            several = torch.cat([_shuffled(places, g) for _ in range(rounds)])
            chosen.append(several[: self.per_class])
        return _shuffled(torch.cat(chosen), g)


def check_sampler(
    sampler: str, images_per_class: int, *, supervised: bool, batch_size: int
) -> None:
    """Raises ValueError or TypeError for what is wrong before the data are known."""
    checks.one_of("data.sampler", sampler, SAMPLERS)
    if sampler == "classes":
        per_class = checks.integer("data.images_per_class", images_per_class, at_least=2)
        if isinstance(batch_size, int) and batch_size % per_class:  # else it is refused elsewhere
            raise ValueError(
                f"batch_size={batch_size} is no multiple of data.images_per_class={per_class}"
            )
    if sampler != "shuffle" and not supervised:
        raise ValueError(
            f"data.sampler={sampler} chooses images by their labels, which supervised=false does "
            "not read; give data.sampler=shuffle, or supervised=true"
        )


def build_order(
    sampler: str, *, images_per_class: int, count: int, labels_N: Tensor | None
) -> Order:
    """The order that `data.sampler` names.

    labels_N: of the `count` images; None: they have none, or none may be read.

    Raises:
        ValueError: the sampler needs labels.
    """
    if sampler == "shuffle":
        return Shuffled(count)
    if labels_N is None:
        raise ValueError(
            f"data.sampler={sampler} chooses images by their labels, and these have none; give "
            "data.sampler=shuffle"
        )
    return ByClass(labels_N, images_per_class) if sampler == "classes" else Balanced(labels_N)


def _places_of_classes(labels_N: Tensor) -> list[Tensor]:
    _, counts_C = labels_N.unique(return_counts=True)
    return list(labels_N.argsort(stable=True).split(counts_C.tolist()))


def _shuffled(places: Tensor, g: torch.Generator) -> Tensor:
    return places[torch.randperm(len(places), generator=g)]
