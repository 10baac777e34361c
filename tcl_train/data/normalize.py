"""Normalisation: the last step of augmentation, and the only one in evaluation.

N: images; C: channels (1 or 3); H, W: rows and columns; S: side of the output.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from tcl_train import checks


class Normalize:
    """Centre crop to `size`, (x - mean) / std, and grey images as three equal channels: float32,
    (N, 3, size, size), channels-last. This alone is what evaluation applies."""

    def __init__(self, *, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.size = checks.integer("size", size, at_least=1)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, 3):
                raise ValueError(f"{name} must have 1 or 3 values, one a channel, got {values}")
            for value in values:
                checks.number(name, value, above=0 if name == "std" else None)
        self.mean_C11 = torch.tensor(mean).view(-1, 1, 1)
        self.std_C11 = torch.tensor(std).view(-1, 1, 1)
        # By device, once made: factors of floats and of levels, and what is added.
        self._constants: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def with_size(self, size: int) -> Normalize:
        """The same with another side of the output."""
        other = copy.copy(self)
        other.size = checks.integer("size", size, at_least=1)
        return other

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        result_NCSS = self.empty(len(x_NCHW), x_NCHW.device)
        self.write(x_NCHW, result_NCSS)
        return result_NCSS

    def empty(self, count: int, device: torch.device) -> Tensor:
        """A result for `count` images, to :meth:`write` to."""
        shape = (count, 3, self.size, self.size)
        return torch.empty(shape, device=device, memory_format=torch.channels_last)

    def write(self, x_NCHW: Tensor, result_NCSS: Tensor) -> None:
        """Writes the result of a call into a part of a larger tensor."""
        of_floats_C11, of_levels_C11, added_C11 = self.constants(x_NCHW.device)
        factor_C11 = of_levels_C11 if x_NCHW.dtype == torch.uint8 else of_floats_C11
        x_NCSS = centre_crop(x_NCHW, self.size).float() * factor_C11
        result_NCSS.copy_(x_NCSS.add_(added_C11))

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The factors (C, 1, 1) of floats and of levels, and what is added, on the device."""
        if device not in self._constants:
            factor_C11, added_C11 = 1 / self.std_C11, -self.mean_C11 / self.std_C11
            every_3C11 = torch.stack([factor_C11, factor_C11 / 255, added_C11])
            on_device = every_3C11.to(device, non_blocking=True).unbind()
            self._constants[device] = (on_device[0], on_device[1], on_device[2])
        return self._constants[device]

    def undo(self, x_NCHW: Tensor) -> Tensor:
        """The uint8 images of normalised ones, for pictures."""
        mean_C11, std_C11 = self.mean_C11.to(x_NCHW.device), self.std_C11.to(x_NCHW.device)
        return (x_NCHW * std_C11 + mean_C11).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def centre_crop(x_NCHW: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` pixels. Raises ValueError for images that are smaller."""
    height, width = x_NCHW.shape[2:]
    check_room(height, width, size)
    top, left = (height - size) // 2, (width - size) // 2
    return x_NCHW[:, :, top : top + size, left : left + size]


def check_room(height: int, width: int, size: int) -> None:
    """Raises ValueError for images that are smaller than a crop of this size."""
    if min(height, width) < size:
        raise ValueError(f"images of {height} x {width} pixels have no crop of {size}")
