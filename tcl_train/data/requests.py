"""What is asked of an image file: the whole image, or boxes of it, each as a square.

H, W: rows and columns; S: the side of a square. Images are uint8, RGB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.data.augment.geometry import RandomResizedCrop
from tcl_train.data.decode import Box, cut, decode


class Whole(NamedTuple):
    """Asks for a whole image, as a square: one tensor (3, S, S)."""

    path: str | Path
    size: int

    def read(self) -> list[Tensor]:
        """From the file.

        Raises:
            UnreadableImage: the file is missing, damaged, or not an image.
        """
        return [torch.from_numpy(decode(self.path, self.size))]

    def of(self, image_3HW: Tensor) -> list[Tensor]:
        """From the image, on its device; within rounding what :meth:`read` gives."""
        height, width = image_3HW.shape[1:]
        side = min(height, width)
        box = Box((width - side) // 2, (height - side) // 2, side, side)
        return [_resized(image_3HW, box, self.size, "bicubic")]


class Boxes(NamedTuple):
    """Asks for boxes of an image, which numbers (V, K) decide: for each group (views, 3, S, S)."""

    path: str | Path
    numbers_VK: Tensor
    groups: Sequence[tuple[Sequence[RandomResizedCrop], int]]

    def read(self) -> list[Tensor]:
        """As :meth:`Whole.read`."""
        views = cut(self.path, self._sizes(), self._boxes)
        return [torch.from_numpy(np.stack(of_group)) for of_group in self._groups(views)]

    def of(self, image_3HW: Tensor) -> list[Tensor]:
        """As :meth:`Whole.of`."""
        height, width = image_3HW.shape[1:]
        boxes = zip(self._boxes(height, width), self._sizes(), strict=True)
        views = (_resized(image_3HW, box, size, "bilinear") for box, size in boxes)
        return [torch.stack(of_group) for of_group in self._groups(views)]

    def _sizes(self) -> list[int]:
        return [size for crops, size in self.groups for _ in crops]

    def _boxes(self, height: int, width: int) -> list[Box]:
        crops = [crop for crops, _ in self.groups for crop in crops]
        boxes = []
        for crop, numbers_K in zip(crops, self.numbers_VK, strict=True):
            box = crop.boxes(numbers_K[None], height, width)
            boxes.append(Box(*(float(box[k]) for k in ("left", "top", "width", "height"))))
        return boxes

    def _groups(self, views: Iterable[Any]) -> list[list[Any]]:
        left = iter(views)
        return [[*islice(left, len(crops))] for crops, _ in self.groups]


def _resized(image_3HW: Tensor, box: Box, size: int, mode: str) -> Tensor:
    """A box of the image as a square, antialiased, of whole pixels."""
    top, left = math.floor(box.top), math.floor(box.left)
    bottom, right = math.ceil(box.top + box.height), math.ceil(box.left + box.width)
    part_3HW = image_3HW[:, top:bottom, left:right]
    if part_3HW.shape[1:] == (size, size):
        return part_3HW
    square = F.interpolate(part_3HW[None].float(), (size, size), mode=mode, antialias=True)[0]
    return square.round_().clamp_(0, 255).to(torch.uint8)
