"""From uint8 images to the normalised views that encoders take.

V: views; B: images; C: channels; H, W: rows and columns; N = V x B.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.geometry import centre_crop
from tcl_train.data.augment.transform import Transform, as_float


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

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        self.mean_C11 = self.mean_C11.to(x_NCHW.device)
        self.std_C11 = self.std_C11.to(x_NCHW.device)
        x_NCHW = (as_float(centre_crop(x_NCHW, self.size)) - self.mean_C11) / self.std_C11
        x_NCHW = x_NCHW.expand(-1, 3, -1, -1)
        return x_NCHW.contiguous(memory_format=torch.channels_last)


class Augment:
    """Transforms in the order in which they are named, then :class:`Normalize`.

        views_NCHW = augment(images_BCHW, views=2, generator=generator(seed, "augment", step))

    The first B rows are the first view of each image, the next B the second.
    """

    def __init__(self, transforms: dict[str, Transform], normalize: Normalize) -> None:
        self.transforms = transforms
        self.normalize = normalize

    def __call__(self, images_BCHW: Tensor, *, views: int, generator: torch.Generator) -> Tensor:
        b, c, h, w = images_BCHW.shape
        x_NCHW = images_BCHW.expand(views, b, c, h, w).reshape(views * b, c, h, w)
        size = self.normalize.size
        for transform in self.transforms.values():
            height, width = x_NCHW.shape[2:]
            parameters = transform.draw(views * b, height, width, generator)
            x_NCHW = transform.apply(x_NCHW, parameters, size)
        return self.normalize(x_NCHW)
