"""The parameters of a batch as float32 numbers side by side: they reach a device in one copy.

V: views; B: images; N = V x B; K: numbers an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tcl_train.data.augment.transform import Parameters


class Column(NamedTuple):
    """A parameter of a transform: an image's values have the shape `shape`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """What the transforms of some views take, transform by transform: (V, B, K). Truth values and
    whole numbers (below 2^24 in size) are float32 numbers, too."""

    numbers_VBK: Tensor
    columns: tuple[tuple[Column, ...], ...]

    def of(self, images: slice) -> Block:
        """The rows of some of the images."""
        return replace(self, numbers_VBK=self.numbers_VBK[:, images])

    def parameters(self) -> list[Parameters]:
        """Of each transform, with a row for each image of the first view, then of the next."""
        numbers_NK = self.numbers_VBK.flatten(0, 1)
        found, first = [], 0
        for transform in self.columns:
            values = {}
            for name, dtype, shape in transform:
                count = torch.Size(shape).numel()
                values[name] = numbers_NK[:, first : first + count].view(-1, *shape).to(dtype)
                first += count
            found.append(values)
        return found


def columns_of(drawn: Sequence[Parameters]) -> tuple[tuple[Column, ...], ...]:
    return tuple(
        tuple(Column(name, value.dtype, tuple(value.shape[1:])) for name, value in values.items())
        for values in drawn
    )


def numbers_of(drawn: Sequence[Parameters], count: int) -> Tensor:
    """(count, K) on the host."""
    values = [value.reshape(count, -1) for values in drawn for value in values.values()]
    return torch.cat([torch.empty(count, 0), *values], 1)


def on_device(blocks: Sequence[Block], device: torch.device) -> list[Block]:
    """The same blocks on the device: one copy, for which nothing waits."""
    together = torch.cat([block.numbers_VBK.flatten() for block in blocks])
    if device.type == "cuda":
        together = together.pin_memory()
    parts = together.to(device, non_blocking=True).split([b.numbers_VBK.numel() for b in blocks])
    return [
        replace(block, numbers_VBK=part.view(block.numbers_VBK.shape))
        for block, part in zip(blocks, parts, strict=True)
    ]
