"""Random numbers for corruptions: those of an image follow from the seed, the kind of corruption
and the image's place in its split, not from the strength or from the other images of a batch.

N: images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tcl_train.runtime.randomness import derive


class Draws:
    """Of the images at these places. Each call draws further numbers."""

    def __init__(self, seed: int, kind: str, places: Sequence[int]) -> None:
        base = derive(seed, "corruption", kind)
        self._of_image = [np.random.Generator(np.random.Philox(key=[base, i])) for i in places]

    def uniform(self, *shape: int) -> Tensor:
        """float32 (N, *shape), in [0, 1)."""
        return _stacked([g.random(shape, dtype=np.float32) for g in self._of_image])

    def normal(self, *shape: int) -> Tensor:
        """float32 (N, *shape), mean 0 and standard deviation 1."""
        return _stacked([g.standard_normal(shape, dtype=np.float32) for g in self._of_image])

    def poisson(self, mean_N: Tensor) -> Tensor:
        """float32 counts with these means (N, ...), on the CPU."""
        means = zip(self._of_image, mean_N.cpu().numpy(), strict=True)
        return _stacked([g.poisson(mean).astype(np.float32) for g, mean in means])


def _stacked(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
