"""Where images come from: an array in memory, or files that workers decode as they are needed.

B, N: images; C: channels (1 or 3); H, W: rows and columns. Images are uint8 until augmentation.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tcl_train import checks
from tcl_train.errors import RequestError


class Images(Protocol):
    """A sequence of equally sized uint8 images."""

    def __len__(self) -> int: ...

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        """For each batch of int64 indices, the images (B, C, H, W), uint8, on the device."""
        ...


class ArrayImages:
    """Images in memory. They move to the training device at the first use and stay there."""

    def __init__(self, images_NCHW: Tensor) -> None:
        if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {images_NCHW.dtype} "
                f"of shape {tuple(images_NCHW.shape)}"
            )
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        self.images_NCHW = self.images_NCHW.to(device)
        for index_B in index_batches:
            yield self.images_NCHW[index_B.to(device, non_blocking=True)]


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

    Workers are not forked from this process, whose threads might hold locks, but from a server
    that has loaded what they need and nothing else; so they are started in milliseconds.
    """

    def __init__(self, paths: Sequence[str | Path], size: int, workers: int) -> None:
        self.paths = list(paths)
        self.size = size
        self.workers = workers

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, index_batches: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        workers = min(self.workers, len(index_batches))
        loader: Iterable[Any] = DataLoader(
            _Decoder(self.size),
            # Paths rather than indices, so that a worker need not be sent all paths first.
            batch_sampler=[[self.paths[i] for i in index_B.tolist()] for index_B in index_batches],
            num_workers=workers,
            multiprocessing_context=_context() if workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
            collate_fn=_stack,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # decoding draws nothing; leave the global state alone
        )
        for images_BCHW in loader:
            if isinstance(images_BCHW, str):
                raise RequestError(images_BCHW)
            yield images_BCHW.to(device, non_blocking=True)


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _leave_signals_to_the_trainer(worker: int) -> None:  # noqa: ARG001
    """A terminal or a scheduler sends them to all processes; the trainer still needs this one to
    finish its step, and then ends it."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


class _Decoder(Dataset):
    """An unreadable file comes out as its message, because an exception from a worker process
    would arrive wrapped in a traceback."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __getitem__(self, path: str | Path) -> Tensor | str:
        try:
            return torch.from_numpy(decode(path, self.size))
        except RequestError as error:
            return str(error)


def _stack(items: list[Tensor | str]) -> Tensor | str:
    for item in items:
        if isinstance(item, str):
            return item
    return torch.stack(items)  # type: ignore[arg-type]


def decode(path: str | Path, size: int) -> np.ndarray:
    """One file as a (3, size, size) uint8 array: turned upright by its EXIF tag, scaled until it
    covers the square, and cut to its centre.

    Raises:
        RequestError: the file is not a whole image; names it.
    """
    try:
        with Image.open(path) as file:
            image = upright_rgb(file)
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except Exception as error:  # Pillow's readers raise many kinds for a damaged file
        raise _not_whole(path, error) from error


def _not_whole(path: str | Path, error: Exception) -> RequestError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RequestError(f"{path}: not a whole image ({reason}); replace the file or delete it")


JPEG_END = b"\xff\xd9"
WHERE_A_JPEG_ENDS = 4096  # bytes; some cameras write something after it


def check_file(path: str | Path) -> None:
    """Looks for damage without decoding, where the type allows: a PNG's checksums, a JPEG's end.
    Other files, and JPEGs without an end, are decoded.

    Raises:
        RequestError: the file is not a whole image; names it.
    """
    try:
        with Image.open(path) as image:
            kind = image.format
            image.verify()
        if kind == "PNG":
            return
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - WHERE_A_JPEG_ENDS))
            if kind == "JPEG" and JPEG_END in file.read():
                return
    except Exception as error:
        raise _not_whole(path, error) from error
    decode(path, 1)


def upright_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; 16-bit grey images are scaled down to 8 bits rather than clipped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        grey_HW = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(grey_HW, 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # as Pillow asks for, in a warning
    return image.convert("RGB")
