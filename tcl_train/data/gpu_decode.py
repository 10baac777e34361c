"""JPEG files decoded on a GPU by torchvision, in place of loader workers.

Another decoder and another rounding make pixels that differ by a few levels from those of Pillow.
What the GPU does not decode comes from Pillow, in threads: other types, JPEGs that are to be turned
upright, and those that are neither RGB nor grey.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tcl_train.data.decode import TRANSPOSE, orientation_of, read_content
from tcl_train.errors import RequestError

log = logging.getLogger(__name__)

AHEAD = 2  # batches whose files are read while the GPU works on one


def check_gpu_decoding(device: torch.device) -> None:
    """Raises RequestError where this device or this torchvision cannot decode."""
    if device.type != "cuda":
        raise RequestError(
            f"data.decode=gpu needs a CUDA device, this run has {device.type}; give data.decode=cpu"
        )
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG")
    try:
        decode_jpegs([_as_tensor(small.getvalue())], device)
    except (ImportError, RuntimeError) as error:
        raise RequestError(
            f"data.decode=gpu: torchvision {version('torchvision')} cannot decode on this GPU "
            f"({str(error).splitlines()[0]}); give data.decode=cpu"
        ) from error


def decode_jpegs(contents: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Each file's bytes as an image (3, H, W), uint8, on the device."""
    if not contents:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg  # which takes a second to load

    return decode_jpeg([*contents], mode=ImageReadMode.RGB, device=device)


class GpuReader:
    """Answers lists of requests (:mod:`tcl_train.data.requests`) with views on a device.

    threads: that read files.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._said = False

    def answers(
        self, requests: Iterable[list[Any]], device: torch.device
    ) -> Iterator[list[Tensor]]:
        """What each list asks for, stacked, on the device.

        Raises:
            UnreadableImage: a file is missing, damaged, or not an image.
        """
        with ThreadPoolExecutor(max(1, self.threads)) as pool:

            def begin(batch: list[Any]) -> tuple[list[Any], list[Future[Tensor | list[Tensor]]]]:
                return batch, [pool.submit(_prepared, request) for request in batch]

            waiting = map(begin, requests)
            begun = deque(islice(waiting, AHEAD))
            try:
                while begun:
                    batch, futures = begun.popleft()
                    begun.extend(islice(waiting, 1))
                    yield self._answer(batch, [future.result() for future in futures], device)
            finally:
                pool.shutdown(cancel_futures=True)

    def _answer(
        self, batch: list[Any], prepared: list[Tensor | list[Tensor]], device: torch.device
    ) -> list[Tensor]:
        contents = [found for found in prepared if isinstance(found, Tensor)]
        try:
            images = iter(decode_jpegs(contents, device))
        except RuntimeError as error:  # of one of them; which is not said
            if not self._said:
                log.warning("a batch is decoded on the CPU: %s", str(error).splitlines()[0])
                self._said = True
            prepared = [
                request.read() if isinstance(found, Tensor) else found
                for request, found in zip(batch, prepared, strict=True)
            ]
        views = [
            request.of(next(images))
            if isinstance(found, Tensor)
            else [view.to(device, non_blocking=True) for view in found]
            for request, found in zip(batch, prepared, strict=True)
        ]
        return [torch.stack(of_group) for of_group in zip(*views, strict=True)]


def _prepared(request: Any) -> Tensor | list[Tensor]:
    """The content of a file that the GPU can decode, or the answer."""
    content = read_content(request.path)
    return _as_tensor(content) if _is_for_gpu(content) else request.read()


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _is_for_gpu(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            is_upright = orientation_of(image) not in TRANSPOSE
            return image.format == "JPEG" and image.mode in ("RGB", "L") and is_upright
    except Exception:  # the other decoder says what is wrong
        return False
