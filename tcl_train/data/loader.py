"""The batches of an epoch: a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.augment import RandomResizedCrop
from tcl_train.data.dataset import NO_LABEL, Split
from tcl_train.data.images import FileImages
from tcl_train.data.order import Order, Shuffled
from tcl_train.data.views import ViewGroup
from tcl_train.errors import RequestError
from tcl_train.runtime.randomness import generator


class Batch(NamedTuple):
    """Images and int64 values that say which belong together, on the training device. The images
    are those of this process, the values those of the global batch (B,).

    images: uint8: one tensor (B, C, H, W) of which all views are made, or for each group of views
    one of views that are cut out already (V x B, C, S, S), view after view.
    """

    images: Sequence[Tensor]
    labels_B: Tensor


@dataclass(frozen=True)
class Cut:
    """How views are cut out of whole files.

    groups: for each group of views the crop of each view, and the views' side by epoch.
    """

    groups: Sequence[tuple[Sequence[RandomResizedCrop], Callable[[int], int]]]

    def numbers(self, count: int, seed: int, *name: str | int) -> Tensor:
        """What decides the boxes of `count` images: (V, count, K) for the views of all groups."""
        g = generator(seed, *name)
        return torch.stack(
            [crop.draw_numbers(count, g) for crops, _ in self.groups for crop in crops]
        )

    def at(self, epoch: int) -> list[tuple[Sequence[RandomResizedCrop], int]]:
        return [(crops, size(epoch)) for crops, size in self.groups]


def cut_where_read(
    groups: Sequence[ViewGroup], split: Split
) -> tuple[Cut | None, Sequence[ViewGroup]]:
    """How the views of a split are cut where its files are read, and what is left of their
    augmentation. Images in memory, and views that begin otherwise than by a crop, have no cut and
    the whole augmentation."""
    crops = [group.augment.crops(group.count) for group in groups]
    if None in crops or not isinstance(split.images, FileImages):
        return None, groups
    cut = Cut([(c, g.side) for c, g in zip(crops, groups, strict=True) if c is not None])
    return cut, [replace(group, augment=group.augment.without_crops()) for group in groups]


class Loader:
    """Batches of one size, in an order that may be given (:mod:`tcl_train.data.order`), else
    shuffled; the incomplete last batch of an epoch is dropped; it holds other images each epoch.

    With supervised=False every image has a different value and no label is read; else images
    without a label have one. With `cut` a batch holds views, cut out of the whole files.

    Raises:
        RequestError: the batch is larger than the data set.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        supervised: bool,
        seed: int,
        device: torch.device,
        cut: Cut | None = None,
        places: Tensor | None = None,
        order: Order | None = None,
    ) -> None:
        if batch_size > len(split):
            raise RequestError(
                f"batch_size={batch_size} is larger than the data set of {len(split)} images; "
                f"give at most {len(split)}"
            )
        if supervised and split.labels_N is None:
            raise RequestError(
                "supervised=true needs labels and these images have none; give supervised=false"
            )
        self.order = Shuffled(len(split)) if order is None else order
        if batch_size > self.order.length:
            raise RequestError(
                f"batch_size={batch_size} is larger than an epoch of {self.order.length} images, "
                "which is what data.sampler leaves; give at most that, or another sampler"
            )
        self.images = split.images
        self.labels_N = torch.arange(len(split))
        if supervised and split.labels_N is not None:
            own_N = split.labels_N.max() + 1 + self.labels_N
            self.labels_N = torch.where(split.labels_N == NO_LABEL, own_N, split.labels_N)
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.cut = cut
        self.places = torch.arange(batch_size) if places is None else places
        self.steps_per_epoch = self.order.length // batch_size
        self._stream: torch.cuda.Stream | None = None

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, starting at `first_batch`."""
        return prefetch(self._epoch(epoch, first_batch), self._side_stream())

    def _side_stream(self) -> torch.cuda.Stream | None:
        """One for all epochs: memory that is freed on a stream serves that stream only."""
        if self._stream is None and self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)
        return self._stream

    def _epoch(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        order_N = self.order(self.seed, epoch)
        batches = order_N.split(self.batch_size)[first_batch : self.steps_per_epoch]
        images = self._images(batches, epoch, first_batch)
        for index_B, of_batch in zip(batches, images, strict=True):
            labels_B = self.labels_N[index_B].to(self.device, non_blocking=True)
            yield Batch(of_batch, labels_B)

    def _images(
        self, batches: Sequence[Tensor], epoch: int, first_batch: int
    ) -> Iterator[Sequence[Tensor]]:
        own = [index_B[self.places] for index_B in batches]
        if self.cut is None:
            return ([images_BCHW] for images_BCHW in self.images.batches(own, self.device))
        first_step = epoch * self.steps_per_epoch + first_batch
        numbers = (
            self.cut.numbers(len(index_B), self.seed, "crop", first_step + i)[:, self.places]
            for i, index_B in enumerate(batches)
        )
        return self._cut(own, numbers, epoch)

    def _cut(
        self, batches: Sequence[Tensor], numbers: Iterable[Tensor], epoch: int
    ) -> Iterator[list[Tensor]]:
        assert self.cut is not None
        assert isinstance(self.images, FileImages)
        return self.images.cut_batches(batches, numbers, self.cut.at(epoch), self.device)

    def first_images(self, count: int) -> Sequence[Tensor]:
        """The first images that pretraining sees, as in a batch."""
        batches = [self.order(self.seed, 0)[:count]]
        if self.cut is None:
            return [*self.images.batches(batches, self.device)]
        numbers = [self.cut.numbers(len(batches[0]), self.seed, "first images")]
        return next(self._cut(batches, numbers, 0))


def prefetch(batches: Iterator[Batch], stream: torch.cuda.Stream | None) -> Iterator[Batch]:
    """The same batches. With a stream of CUDA the next one is made ready on it while the one given
    last is trained on: its images are gathered, or copied from the workers, meanwhile."""
    if stream is None:
        yield from batches
        return
    while True:
        with torch.cuda.stream(stream):
            batch = next(batches, None)
        if batch is None:
            return
        training = torch.cuda.current_stream(stream.device)
        training.wait_stream(stream)
        for tensor in (*batch.images, batch.labels_B):
            tensor.record_stream(training)  # its memory is not free before the step is done
        yield batch  # returns as soon as the step is queued, long before the device has done it
