"""Stems: an encoder's first layers.

`imagenet` is 7x7, stride 2, then a 3x3 max-pool with stride 2; `small` is 3x3, stride 1, no pool,
for small images; `patch` is 4x4, stride 2, no pool, for small images and little time: later layers
cost a quarter of what they cost after `small`. `cosine` is `patch` with fixed filters, which saves
the stem's backward pass. `padded` is `small` with a border of two pixels, as in solo-learn's
encoders of CIFAR, for their weights. `auto` takes `small` for images up to 64 pixels, else
`imagenet`.
"""

from __future__ import annotations

from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl_train import checks
from tcl_train.models.norm import norm_layer

STEMS = ("auto", "small", "padded", "patch", "cosine", "imagenet")
SIDE_STRIDE_PADDING = {"small": (3, 1, 1), "padded": (3, 1, 2), "patch": (4, 2, 1)}
LARGEST_IMAGE_FOR_SMALL_STEM = 64


class Stem(NamedTuple):
    """The first convolution, its normalisation (a ReLU comes next), and what pools after it."""

    convolution: nn.Module
    norm: nn.Module
    pool: nn.Module


def choose_stem(stem: str, image_size: int) -> str:
    """Any of the names but `auto`."""
    checks.one_of("stem", stem, STEMS)
    if stem != "auto":
        return stem
    return "small" if image_size <= LARGEST_IMAGE_FOR_SMALL_STEM else "imagenet"


def build_stem(stem: str, image_size: int, channels: int, *, norm: str = "batch") -> Stem:
    """(N, 3, H, W) -> (N, channels, ...). norm: see :func:`norm_layer`."""
    stem = choose_stem(stem, image_size)
    if stem == "cosine":
        if norm != "batch":
            raise ValueError(f"stem=cosine normalises over the batch, got norm={norm}")
        return Stem(CosinePatches(channels), nn.Identity(), nn.Identity())
    layer = norm_layer(norm)(channels)
    if stem == "imagenet":
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        return Stem(nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False), layer, pool)
    return Stem(first_convolution(stem, channels), layer, nn.Identity())


def first_convolution(stem: str, channels: int) -> nn.Conv2d:
    """That of a stem without a pool, before its normalisation."""
    side, stride, padding = SIDE_STRIDE_PADDING[stem]
    return nn.Conv2d(3, channels, side, stride=stride, padding=padding, bias=False)


class CosinePatches(nn.Module):
    """The cosine transform of each 4x4 patch, stride 2, in three colour axes, normalised over the
    batch without learned scales, and its negative: for a ReLU after it, which keeps both halves.

    In natural images these coefficients are nearly uncorrelated, so that normalising each of them
    nearly whitens the patches; no filter is learned, and nothing is to be computed backwards. Of
    the 48 coefficients the lowest frequencies are taken, brightness before colour.

    channels: even, from 2 to 96.
    """

    SIDE = 4
    COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))  # brightness and two opponents
    COLOUR_PENALTY = 4  # on the squared frequency, so that brightness comes first

    def __init__(self, channels: int) -> None:
        super().__init__()
        most = 2 * len(self.COLOURS) * self.SIDE**2
        if channels % 2 or not 2 <= channels <= most:
            raise ValueError(
                f"stem=cosine has an even number of channels up to {most}, got width={channels}"
            )
        self.register_buffer("filters", self._filters(channels // 2), persistent=False)
        self.norm = nn.BatchNorm2d(channels // 2, affine=False)

    @classmethod
    def _filters(cls, count: int) -> Tensor:
        """Orthonormal, (count, 3, 4, 4)."""
        side = cls.SIDE
        place_S = torch.arange(side) + 0.5
        wave_FS = torch.cos(torch.arange(side)[:, None] * place_S * (pi / side))
        wave_FS = F.normalize(wave_FS)
        colour_A3 = F.normalize(torch.tensor(cls.COLOURS))
        wanted = sorted(
            (down**2 + across**2 + cls.COLOUR_PENALTY * (axis > 0), axis, down, across)
            for axis in range(len(cls.COLOURS))
            for down in range(side)
            for across in range(side)
        )
        return torch.stack(
            [
                colour_A3[axis][:, None, None] * wave_FS[down][:, None] * wave_FS[across]
                for _, axis, down, across in wanted[:count]
            ]
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NCHW = self.norm(F.conv2d(x_NCHW, self.get_buffer("filters"), stride=2, padding=1))
        return torch.cat([h_NCHW, -h_NCHW], 1)
