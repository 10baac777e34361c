"""What both forms of the blockwise engine share: the weights of D's terms, and the size of blocks.

I, J: rows and columns of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """What the terms of D are multiplied with, each >= 0, and the temperature."""

    tau: float
    positive: float = 1.0
    k1: float = 0.0
    negative: float = 1.0


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


def choose(mask_IJ: Tensor, yes: float, no: float, like_IJ: Tensor) -> Tensor:
    """torch.where of two numbers would be float32 whatever the rest is."""
    return torch.full_like(like_IJ, no).masked_fill_(mask_IJ, yes)
