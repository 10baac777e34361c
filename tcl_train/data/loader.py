"""The order in which pretraining sees images: a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.dataset import Split
from tcl_train.errors import RequestError
from tcl_train.runtime.randomness import generator


class Batch(NamedTuple):
    """B images (B, C, H, W), uint8, and int64 values that say which belong together, both on the
    training device."""

    images_BCHW: Tensor
    labels_B: Tensor


class Loader:
    """Shuffled batches of one size; the incomplete last batch of an epoch is dropped; it holds
    other images each epoch.

    With supervised=False every image has a value of its own and no label is read.

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
        self.images = split.images
        own_values_N = torch.arange(len(split))
        self.labels_N = split.labels_N if supervised else own_values_N
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_per_epoch = len(split) // batch_size

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, starting at batch `first`."""
        return prefetch(self._epoch(epoch, first_batch), self.device)

    def _epoch(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        order_N = self._order(epoch)
        batches = order_N.split(self.batch_size)[first_batch : self.steps_per_epoch]
        assert self.labels_N is not None
        images = self.images.batches(batches, self.device)
        for index_B, images_BCHW in zip(batches, images, strict=True):
            labels_B = self.labels_N[index_B].to(self.device, non_blocking=True)
            yield Batch(images_BCHW, labels_B)

    def first_images(self, count: int) -> Tensor:
        """The first images that pretraining sees."""
        (images_BCHW,) = self.images.batches([self._order(0)[:count]], self.device)
        return images_BCHW

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.images), generator=generator(self.seed, "order", epoch))


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
