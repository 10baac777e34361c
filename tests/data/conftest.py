"""Small data sets on disk.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tcl_train.data.dataset import ReadOptions
from tcl_train.data.images import Images


@pytest.fixture
def read_options(tmp_path: Path) -> Callable[..., ReadOptions]:
    """Options that keep everything in memory and cache below tmp_path."""

    def make(**changes: Any) -> ReadOptions:
        usual = {
            "cache_dir": tmp_path / "cache",
            "memory_limit_gb": 1,
            "workers": 0,
            "supervised": True,
        }
        return ReadOptions(**{**usual, **changes})

    return make


@pytest.fixture
def save_noise() -> Callable[..., np.ndarray]:
    """Writes an image of noise, another one each time, and returns its pixels (H, W, 3)."""
    rng = np.random.default_rng(0)

    def save(path: Path, width: int = 6, height: int = 6) -> np.ndarray:
        pixels_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HWC).save(path)
        return pixels_HWC

    return save


@pytest.fixture
def save_folders(save_noise: Callable[..., np.ndarray]) -> Callable[..., dict[str, np.ndarray]]:
    """Writes ROOT/SPLIT/CLASS/*.png for {split: {class: number of images}}; returns the pixels
    (N, 3, H, W) of each split in the order of the file names."""

    def save(
        root: Path, splits: Mapping[str, Mapping[str, int]], side: int = 6
    ) -> dict[str, np.ndarray]:
        return {
            split: np.stack(
                [
                    save_noise(root / split / name / f"{i}.png", side, side).transpose(2, 0, 1)
                    for name, count in sorted(classes.items())
                    for i in range(count)
                ]
            )
            for split, classes in splits.items()
        }

    return save


@pytest.fixture
def all_images() -> Callable[[Images], Tensor]:
    """All images of a set in one tensor, in order."""

    def read(images: Images) -> Tensor:
        index_N = torch.arange(len(images))
        (images_NCHW,) = images.batches([index_N], torch.device("cpu"))
        return images_NCHW

    return read
