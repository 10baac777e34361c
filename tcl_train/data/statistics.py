"""Mean and standard deviation of the pixels, per channel.

L: the 256 levels of a uint8 value; C: channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train.data.images import Images
from tcl_train.data.listing import even_sample

LARGEST_SAMPLE = 50_000
CHUNK = 500
LEVELS = 256


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Over all images, or over an even sample of 50,000 where there are more; of values in [0, 1].

    They are exact: levels are counted. A channel that never varies gets a standard deviation of 1,
    so that dividing by it is safe.
    """
    count_CL: Tensor | None = None
    index_N = torch.tensor(even_sample(len(images), LARGEST_SAMPLE))
    for images_BCHW in images.batches(index_N.split(CHUNK), torch.device("cpu")):
        counts = [channel.flatten().bincount(minlength=LEVELS) for channel in images_BCHW.unbind(1)]
        count_CL = torch.stack(counts) + (0 if count_CL is None else count_CL)
    assert count_CL is not None
    share_CL = count_CL.double() / count_CL.sum(1, keepdim=True)
    level_L = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
    mean_C = share_CL @ level_L
    std_C = (share_CL * (level_L - mean_C[:, None]).square()).sum(1).sqrt()
    std_C = torch.where(std_C < 1e-6, 1.0, std_C)
    return tuple(mean_C.tolist()), tuple(std_C.tolist())


def count_constant(images_NCHW: Tensor) -> int:
    """How many images have a single value in each channel."""
    flat_NCP = images_NCHW.flatten(2)
    return int((flat_NCP == flat_NCP[:, :, :1]).all(2).all(1).sum())
