"""What a transform is: drawing its parameters and applying them are two steps.

Parameters are drawn on the CPU for all images of the global batch at once, so that every device
and any number of processes see the same ones; each process applies its share.

N: views x images; C: channels (1 or 3); H, W: rows and columns; S: side of the output.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


class Transform(Protocol):
    """`draw` gives tensors whose first dimension is N; `apply` uses them on N images."""

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        """For images of `height` x `width`."""
        ...

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        """`size` is the side of the output, for transforms that crop."""
        ...


def uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g) * (high - low) + low


def as_float(x_NCHW: Tensor) -> Tensor:
    """float32 in [0, 1]."""
    return x_NCHW.float() / 255 if x_NCHW.dtype == torch.uint8 else x_NCHW


def as_uint8(x_NCHW: Tensor) -> Tensor:
    """uint8 in [0, 255]."""
    return x_NCHW if x_NCHW.dtype == torch.uint8 else (x_NCHW * 255).round().to(torch.uint8)


def per_image(value_N: Tensor, x_NCHW: Tensor) -> Tensor:
    """A value an image, shaped and placed to combine with the images."""
    return value_N.to(x_NCHW.device, non_blocking=True).view(-1, 1, 1, 1)
