"""Where images come from: an array in memory, or files that workers decode as they are needed.

B, N: images; C: channels (1 or 3); H, W: rows and columns. Images are uint8 until augmentation.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcl_train import checks
from tcl_train.data.augment.geometry import RandomResizedCrop
from tcl_train.data.decode import UnreadableImage
from tcl_train.data.gpu_decode import GpuReader
from tcl_train.data.requests import Boxes, Whole
from tcl_train.errors import RequestError
from tcl_train.runtime.signals import STOPPING


class Images(Protocol):
    """A sequence of equally sized uint8 images."""

    def __len__(self) -> int: ...

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        """For each batch of int64 indices, the images (B, C, H, W), uint8, on the device."""
        ...

    def digest(self) -> str:
        """Names the content, wherever it lies: KIND:HEX, of `pixels` or of files' `contents`."""
        ...

    def chosen(self, places_M: Tensor) -> Images:
        """The images at these places."""
        ...


class ArrayImages:
    """Images in memory. They move to the training device at the first use and stay there, unless
    they would take more than half of a GPU's free memory.

    digest: of the images, where it is known already.
    """

    def __init__(self, images_NCHW: Tensor, digest: str | None = None) -> None:
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {images_NCHW.dtype} "
                f"of shape {tuple(images_NCHW.shape)}"
            )
        self.images_NCHW = images_NCHW
        self._digest = digest

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        if self.images_NCHW.device != device and _fits(self.images_NCHW, device):
            self.images_NCHW = self.images_NCHW.to(device)
        here = self.images_NCHW.device
        for index_B in index_batches:
            images_BCHW = self.images_NCHW[index_B.to(here, non_blocking=True)]
            if here != device:
                images_BCHW = images_BCHW.pin_memory().to(device, non_blocking=True)
            yield images_BCHW

    def digest(self) -> str:
        if self._digest is None:
            self._digest = array_digest(self.images_NCHW.cpu().numpy())
        return self._digest

    def chosen(self, places_M: Tensor) -> ArrayImages:
        return ArrayImages(self.images_NCHW[places_M.to(self.images_NCHW.device)])


SHARE_OF_FREE_MEMORY = 0.5  # of a GPU's, for images; the rest is for training


def _fits(images_NCHW: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images_NCHW.nbytes <= SHARE_OF_FREE_MEMORY * free


def array_digest(images_NCHW: np.ndarray) -> str:
    """Names shape and pixels."""
    digest = hashlib.blake2b(repr(images_NCHW.shape).encode(), digest_size=16)
    for image_CHW in images_NCHW:
        digest.update(image_CHW.tobytes())
    return f"pixels:{digest.hexdigest()}"


def resized(images_NCHW: Tensor, size: int) -> Tensor:
    """The images at `size` x `size` pixels, bilinear and antialiased."""
    checks.integer("image_size", size, at_least=1)
    if images_NCHW.shape[2:] == (size, size):
        return images_NCHW
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        for part in images_NCHW.split(1000)
    ]
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])


class FileImages:
    """Image files, decoded by loader workers to squares of `size` pixels, RGB.

    on_gpu: a GPU decodes those of which it is given views, see :mod:`tcl_train.data.gpu_decode`.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int,
        workers: int,
        digest: str = "files:",
        *,
        on_gpu: bool = False,
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.workers = workers
        self.on_gpu = on_gpu
        self._digest = digest
        self._readers = _Readers(workers)
        self._gpu = GpuReader(workers)

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        # Paths rather than indices, so that a worker need not be sent all paths first.
        requests = (
            [Whole(self.paths[i], self.size) for i in index_B.tolist()] for index_B in index_batches
        )
        for (images_BCHW,) in self._readers.answers(requests, len(index_batches), device):
            yield images_BCHW

    def cut_batches(
        self,
        index_batches: Sequence[Tensor],
        numbers_of_batches: Iterable[Tensor],
        groups: Sequence[tuple[Sequence[RandomResizedCrop], int]],
        device: torch.device,
    ) -> Iterator[list[Tensor]]:
        """For each batch of int64 indices (B,), views cut out of the whole images, view after view:
        for each group (its views x B, 3, size, size), uint8, on the device.

        numbers_of_batches: for each batch (V, B, K), see `RandomResizedCrop.draw_numbers`; groups:
        the crop of each view, and their size.
        """
        requests = (
            [Boxes(self.paths[i], numbers_BVK[b], groups) for b, i in enumerate(index_B.tolist())]
            for index_B, numbers_BVK in zip(
                index_batches,
                (numbers_VBK.transpose(0, 1) for numbers_VBK in numbers_of_batches),
                strict=True,
            )
        )
        if self.on_gpu and device.type == "cuda":
            answers = self._gpu.answers(requests, device)
        else:
            answers = self._readers.answers(requests, len(index_batches), device)
        for of_groups in answers:
            yield [views_BVCSS.transpose(0, 1).flatten(0, 1) for views_BVCSS in of_groups]

    def digest(self) -> str:
        return self._digest

    def chosen(self, places_M: Tensor) -> FileImages:
        paths = [self.paths[i] for i in places_M.tolist()]
        named = hashlib.blake2b(self._digest.encode(), digest_size=16)
        named.update(places_M.numpy().tobytes())
        kind = self._digest.partition(":")[0]
        digest = f"{kind}:{named.hexdigest()}"
        return FileImages(paths, self.size, self.workers, digest, on_gpu=self.on_gpu)


class _Readers:
    """Loader workers, kept after an epoch for the next one.

    They are not forked from this process, whose threads might hold locks, but from a server that
    has loaded what they need and nothing else.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: dict[str, tuple[DataLoader, _Batches]] = {}  # by the type of the device

    def answers(
        self,
        requests: Iterable[list[Any]],
        count: int,
        device: torch.device,
    ) -> Iterator[list[Tensor]]:
        """What each of `count` lists of Whole or of Boxes asks for, stacked, on the device."""
        keep = 0 < self.workers <= count
        idle = self._idle.pop(device.type, None) if keep else None
        loader, batches = idle or self._loader(min(self.workers, count), device, keep=keep)
        batches.requests = requests
        for stacked in loader:
            if isinstance(stacked, str):
                raise RequestError(stacked)
            yield [images_BCHW.to(device, non_blocking=True) for images_BCHW in stacked]
        if keep:  # not where the epoch was left, or has failed, which may leave answers behind
            self._idle[device.type] = (loader, batches)

    def _loader(
        self, workers: int, device: torch.device, *, keep: bool
    ) -> tuple[DataLoader, _Batches]:
        batches = _Batches()
        loader: DataLoader = DataLoader(
            _Read(),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=keep,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_prepare_worker,
            collate_fn=_stack,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # decoding draws nothing; leave the global state alone
        )
        return loader, batches


class _Batches:
    """Lists of requests, taken as workers are ready for them."""

    requests: Iterable[list[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.requests)


class _Read(Dataset):
    """Carries out a request. An unreadable file comes out as its message, because an exception from
    a worker process would arrive wrapped in a traceback."""

    def __getitem__(self, request: Whole | Boxes) -> list[Tensor] | str:
        try:
            return request.read()
        except UnreadableImage as error:
            return str(error)


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _prepare_worker(worker: int) -> None:  # noqa: ARG001
    """A terminal or a scheduler sends signals to all processes; the trainer still needs this one to
    finish its step. It ends when the trainer asks for it by SIGTERM, as it does at its own end, and
    when the trainer is gone."""
    for signum in STOPPING:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")
    if hasattr(signal, "sigwaitinfo"):  # which tells who has sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_asked, daemon=True).start()
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_when_asked() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer.pid:
        pass
    os._exit(0)


def _end_with_the_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    wait([trainer.sentinel])
    os._exit(1)


def _stack(items: list[list[Tensor] | str]) -> list[Tensor] | str:
    for item in items:
        if isinstance(item, str):
            return item
    return [torch.stack(of_group) for of_group in zip(*items, strict=True)]
