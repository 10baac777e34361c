"""Features of image files, batch after batch, with all cores at work.

B: images of a batch; D: features; S: side of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.decode import quietly
from tcl_train.data.folder import stored_size
from tcl_train.data.stream import Decoded, begun_ahead, decode_files, decoded_batches
from tcl_train.evaluation.features import frozen
from tcl_train.restore import Embedder
from tcl_train.runtime.device import Runtime, available_cpus
from tcl_train.runtime.threads import Threads

# Images that are computed at a time: by a GPU; by a thread on a CPU, and at most so many pixels.
LARGE_BATCH, SMALL_BATCH, PIXELS = 256, 32, 2**19


class FileFeatures(NamedTuple):
    """Of those files of a batch that could be decoded: float32, on the device, and their places."""

    x_BD: Tensor
    places_B: list[int]


def suitable_batch(embedder: Embedder) -> int:
    """How many images to compute at a time."""
    if not _computes_in_threads(embedder.runtime):
        return LARGE_BATCH
    return max(1, min(SMALL_BATCH, PIXELS // embedder.normalize.size**2))


def _computes_in_threads(runtime: Runtime) -> bool:
    return runtime.device.type == "cpu"


@contextmanager
def feature_batches(
    embedder: Embedder, batches: Sequence[Sequence[str]], *, workers: int | None, skip: bool
) -> Iterator[Iterator[FileFeatures]]:
    """The features of each batch of paths, in order. On a CPU, each thread decodes a batch and runs
    the encoder on it; with another device, threads decode the next batches while it computes.

    workers: these threads; None: as many as torch computes with, and to decode only, one for each
    CPU of this process. skip: leave out files that cannot be decoded.

    Raises:
        UnreadableImage: (the iterator) a file cannot be decoded, and `skip` is not set.
    """
    runtime, size = embedder.runtime, stored_size(embedder.normalize.size)
    # Autocast keeps the weights that it has brought to half precision until its block ends.
    with frozen(embedder.module), runtime.autocast():
        if not _computes_in_threads(runtime):
            count = workers or max(1, available_cpus() // runtime.processes.local_count)
            with decoded_batches(batches, size, threads=count, skip=skip) as ahead:
                yield (_features(embedder, decoded) for decoded in ahead)
            return
        count = max(1, min(workers or torch.get_num_threads(), len(batches)))
        with quietly(), _computing_threads(runtime, count) as threads:

            def compute(paths: Sequence[str]) -> FileFeatures:
                decoded = decode_files(paths, size, threads, skip=skip)
                return no_features(embedder) if threads.stopping else _features(embedder, decoded)

            tasks = (threads.submit(compute, paths) for paths in batches)
            yield (task.result() for task in begun_ahead(tasks, threads.count))


@contextmanager
def _computing_threads(runtime: Runtime, count: int) -> Iterator[Threads]:
    """Threads that share the cores and compute without gradients, in the run's precision."""
    cores = torch.get_num_threads()

    def begin() -> None:  # what holds for a thread alone, as long as it lives
        torch.set_num_threads(max(1, cores // count))
        torch.set_grad_enabled(False)
        runtime.autocast().__enter__()

    try:
        with Threads(count, begin) as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)  # new threads begin with the number that was set last


def no_features(embedder: Embedder) -> FileFeatures:
    return FileFeatures(torch.empty(0, embedder.dim, device=embedder.runtime.device), [])


def _features(embedder: Embedder, decoded: Decoded) -> FileFeatures:
    device = embedder.runtime.device
    images_B3SS, places_B = decoded
    if not places_B:
        return no_features(embedder)
    if device.type == "cuda":
        images_B3SS = images_B3SS.pin_memory()
    images_B3SS = images_B3SS.to(device, non_blocking=True)
    if len(embedder.normalize.mean_C11) == 1:  # grey, as the run's images
        images_B3SS = _grey(images_B3SS)
    return FileFeatures(embedder.module(embedder.normalize(images_B3SS)).float(), places_B)


# ITU-R 601-2, as Pillow converts to grey
LUMA = (0.299, 0.587, 0.114)


def _grey(images_B3SS: Tensor) -> Tensor:
    weight_311 = torch.tensor(LUMA, device=images_B3SS.device).view(3, 1, 1)
    grey_B1SS = (images_B3SS * weight_311).sum(1, keepdim=True)
    return grey_B1SS.round_().to(torch.uint8)
