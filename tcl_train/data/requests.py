"""What can be requested from an image file: the whole image, or boxes of it, each as a square.

S: the side of a square. V: views; K: numbers that decide a box. Images are uint8, RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
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


class Boxes(NamedTuple):
    """Asks for boxes of an image, which numbers (V, K) decide: for each group (views, 3, S, S)."""

    path: str | Path
    numbers_VK: Tensor
    groups: Sequence[tuple[Sequence[RandomResizedCrop], int]]

    def read(self) -> list[Tensor]:
        """As :meth:`Whole.read`."""
        sizes = [size for crops, size in self.groups for _ in crops]
        views = iter(cut(self.path, sizes, self._boxes))
        counts = [len(crops) for crops, _ in self.groups]
        return [torch.from_numpy(np.stack([*islice(views, count)])) for count in counts]

    def _boxes(self, height: int, width: int) -> list[Box]:
        crops = [crop for crops, _ in self.groups for crop in crops]
        boxes = []
        for crop, numbers_K in zip(crops, self.numbers_VK, strict=True):
            box = crop.boxes(numbers_K[None], height, width)
            boxes.append(Box(*(float(box[k]) for k in ("left", "top", "width", "height"))))
        return boxes
