"""The batches of an epoch: a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.augment import Augment, RandomResizedCrop
from tcl_train.data.dataset import Split
from tcl_train.data.images import FileImages
from tcl_train.data.order import Order, Shuffled
from tcl_train.errors import RequestError
from tcl_train.runtime.randomness import generator


class Batch(NamedTuple):
    """Images (C, H, W), or views of them, view after view, uint8, and int64 values that say which
    belong together, both on the training device. The images are those of this process, the values
    those of the global batch (B,)."""

    images_BCHW: Tensor
    labels_B: Tensor


@dataclass(frozen=True)
class Cut:
    """How views are cut out of whole files.

    crops: the crop of each view; size: the views' side, by epoch.
    """

    crops: Sequence[RandomResizedCrop]
    size: Callable[[int], int]

    def numbers(self, count: int, seed: int, *name: str | int) -> Tensor:
        """What decides the boxes of `count` images: (V, count, K)."""
        g = generator(seed, *name)
        return torch.stack([crop.draw_numbers(count, g) for crop in self.crops])


def cut_where_read(
    augment: Augment, split: Split, views: int, size: Callable[[int], int | None]
) -> tuple[Cut | None, Augment]:
    """How the views of a split are cut where its files are read, and what is left of the
    augmentation. Images in memory, and views that begin otherwise than by a crop, have no cut and
    the whole augmentation.

    size: the views' side by epoch; None: that of the augmentation.
    """
    crops = augment.crops(views)
    if crops is None or not isinstance(split.images, FileImages):
        return None, augment
    whole = augment.normalize.size
    return Cut(crops, lambda epoch: size(epoch) or whole), augment.without_crops()


class Loader:
    """Batches of one size, in an order that may be given (:mod:`tcl_train.data.order`), else
    shuffled; the incomplete last batch of an epoch is dropped; it holds other images each epoch.

    With supervised=False every image has a value of its own and no label is read. With `cut` a
    batch holds views, view after view (V x B), cut out of the whole files.

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
        own_values_N = torch.arange(len(split))
        self.labels_N = split.labels_N if supervised else own_values_N
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.cut = cut
        self.places = torch.arange(batch_size) if places is None else places
        self.steps_per_epoch = self.order.length // batch_size

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, starting at `first_batch`."""
        return prefetch(self._epoch(epoch, first_batch), self.device)

    def _epoch(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        order_N = self.order(self.seed, epoch)
        batches = order_N.split(self.batch_size)[first_batch : self.steps_per_epoch]
        assert self.labels_N is not None
        images = self._images(batches, epoch, first_batch)
        for index_B, images_BCHW in zip(batches, images, strict=True):
            labels_B = self.labels_N[index_B].to(self.device, non_blocking=True)
            yield Batch(images_BCHW, labels_B)

    def _images(self, batches: Sequence[Tensor], epoch: int, first_batch: int) -> Iterator[Tensor]:
        own = [index_B[self.places] for index_B in batches]
        if self.cut is None:
            return self.images.batches(own, self.device)
        first_step = epoch * self.steps_per_epoch + first_batch
        numbers = (
            self.cut.numbers(len(index_B), self.seed, "crop", first_step + i)[:, self.places]
            for i, index_B in enumerate(batches)
        )
        return self._cut(own, numbers, epoch)

    def _cut(
        self, batches: Sequence[Tensor], numbers: Iterable[Tensor], epoch: int
    ) -> Iterator[Tensor]:
        assert self.cut is not None
        assert isinstance(self.images, FileImages)
        size = self.cut.size(epoch)
        return self.images.cut_batches(batches, numbers, self.cut.crops, size, self.device)

    def first_images(self, count: int) -> Tensor:
        """The first images that pretraining sees, as in a batch."""
        batches = [self.order(self.seed, 0)[:count]]
        if self.cut is None:
            (images_BCHW,) = self.images.batches(batches, self.device)
        else:
            numbers = [self.cut.numbers(len(batches[0]), self.seed, "first images")]
            (images_BCHW,) = self._cut(batches, numbers, 0)
        return images_BCHW


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches. On CUDA the next one is made ready on a stream of its own while the one
    given last is trained on: its images are gathered, or copied from the workers, meanwhile."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    while True:
        with torch.cuda.stream(stream):
            batch = next(batches, None)
        if batch is None:
            return
        training = torch.cuda.current_stream(device)
        training.wait_stream(stream)
        for tensor in batch:
            tensor.record_stream(training)  # its memory is not free before the step is done
        yield batch  # returns as soon as the step is queued, long before the device has done it
