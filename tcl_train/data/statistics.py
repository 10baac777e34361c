"""Mean and standard deviation of the pixels, per channel."""

from __future__ import annotations

import torch

from tcl_train.data.images import Images

LARGEST_SAMPLE = 50_000
CHUNK = 500


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Over all images, or over an even sample of 50,000 where there are more; of values in [0, 1].

    A channel that never varies gets a standard deviation of 1, so that dividing by it is safe.
    """
    count = min(len(images), LARGEST_SAMPLE)
    index_N = torch.linspace(0, len(images) - 1, count).round().long()
    pixels = 0
    total_C: torch.Tensor | float = 0.0
    squares_C: torch.Tensor | float = 0.0
    for images_BCHW in images.batches(index_N.split(CHUNK), torch.device("cpu")):
        values_BCHW = images_BCHW.double() / 255
        pixels += values_BCHW[:, 0].numel()
        total_C = total_C + values_BCHW.sum((0, 2, 3))
        squares_C = squares_C + values_BCHW.square().sum((0, 2, 3))
    mean_C = torch.as_tensor(total_C) / pixels
    std_C = (torch.as_tensor(squares_C) / pixels - mean_C.square()).clamp(min=0).sqrt()
    std_C = torch.where(std_C < 1e-6, 1.0, std_C)
    return tuple(mean_C.tolist()), tuple(std_C.tolist())
