"""What both forms of the blockwise engine share: the weights of D's terms, and the size of blocks.

I, J: rows and columns of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PairWeights(NamedTuple):
    """The temperature, and the factors of the terms of D, each >= 0: k1 of the positives'
    extra term, `negative` of the negatives. The positives' own terms count once."""

    tau: float
    k1: float = 0.0
    negative: float = 1.0


# Blocks of other shapes may round a product differently: similarities within so many units of
# rounding are called equal.
ROUNDING = 32


class Hardest(NamedTuple):
    """Which negatives of each anchor count: those above its floor whole, those at it (within
    rounding) by the share, and none below. So ties keep the share of the negatives as it is asked.
    """

    floor_N: Tensor
    share_N: Tensor

    @staticmethod
    def above(floor_N: Tensor) -> Tensor:
        return floor_N + ROUNDING * torch.finfo(floor_N.dtype).eps

    @staticmethod
    def below(floor_N: Tensor) -> Tensor:
        return floor_N - ROUNDING * torch.finfo(floor_N.dtype).eps


class Tile(NamedTuple):
    """The largest block, rows x columns. A batch of at most `whole` rows is one block, which is
    kept for the backward pass."""

    rows: int
    columns: int
    whole: int


# Blocks that stay in a CPU's cache (the fastest of those tried), and that fill a GPU.
TILES = {"cpu": Tile(512, 1024, 1024), "cuda": Tile(2048, 8192, 4096)}


def tile_for(device: torch.device) -> Tile:
    return TILES.get(device.type, TILES["cuda"])


def select_number(mask_IJ: Tensor, yes: float, no: float, like_IJ: Tensor) -> Tensor:
    """`yes` where the mask is true, else `no`, in the type of `like_IJ`; torch.where of two numbers
    would be float32."""
    return torch.full_like(like_IJ, no).masked_fill_(mask_IJ, yes)


def log_weight(weight: float) -> float:
    """Its logarithm; -inf for 0."""
    return math.log(weight) if weight else -math.inf
