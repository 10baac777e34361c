"""Operations on the levels of uint8 images, as the learned policies use them: each level of an
image (or of a channel) is mapped to another, independent of position.

They equal torchvision's on uint8 tensors bit for bit. Each takes one magnitude per image, as
torchvision's policies do; torchvision's factors are 1 + magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train.data.augment.colour import GREY_WEIGHTS
from tcl_train.data.augment.transform import truncated


def brightness(x_NCHW: Tensor, magnitude_N: Tensor) -> Tensor:
    factor_N111 = (1 + magnitude_N)[:, None, None, None]
    return truncated(x_NCHW.float().mul_(factor_N111).clamp_(max=255))


def contrast(x_NCHW: Tensor, magnitude_N: Tensor) -> Tensor:
    """Away from the image's mean luma (magnitude above 0) or towards it."""
    x_NCHW = x_NCHW.float()
    return blend(x_NCHW, luma(x_NCHW).mean((1, 2, 3), keepdim=True), magnitude_N)


def saturation(x_NCHW: Tensor, magnitude_N: Tensor) -> Tensor:
    """Away from each pixel's luma, or towards it. Grey images are left as they are."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    x_NCHW = x_NCHW.float()
    return blend(x_NCHW, luma(x_NCHW), magnitude_N)


def blend(x_NCHW: Tensor, other_N1HW: Tensor, magnitude_N: Tensor) -> Tensor:
    """(1 + magnitude) x - magnitude other, of levels as floats; both may be written to."""
    magnitude_N111 = magnitude_N[:, None, None, None]
    other_N1HW = other_N1HW.mul_(-magnitude_N111)
    return truncated(x_NCHW.mul_(1 + magnitude_N111).add_(other_N1HW).clamp_(0, 255))


def luma(x_NCHW: Tensor) -> Tensor:
    """Of levels as floats: whole levels, rounded down."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    r, g, b = (x_NCHW[:, i : i + 1] * weight for i, weight in enumerate(GREY_WEIGHTS))
    return r.add_(g).add_(b).trunc_()


def posterize(x_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keeps the highest bits."""
    step_N = 2 ** (8 - bits_N.trunc())
    mask_N = (256 - step_N).to(torch.uint8)
    return x_NCHW & mask_N[:, None, None, None]


def solarize(x_NCHW: Tensor, threshold_N: Tensor) -> Tensor:
    """Inverts the levels from the threshold on."""
    # The least whole level that is inverted; 256, of which there is none, does not come up.
    level_N = threshold_N.ceil().clamp(0, 255).to(torch.uint8)
    inverted_NCHW = torch.maximum(x_NCHW, level_N[:, None, None, None]) == x_NCHW
    return x_NCHW ^ (inverted_NCHW.view(torch.uint8) * 255)


def invert(x_NCHW: Tensor, unused_N: Tensor) -> Tensor:  # noqa: ARG001
    return 255 - x_NCHW


def autocontrast(x_NCHW: Tensor, unused_N: Tensor) -> Tensor:  # noqa: ARG001
    """Stretches each channel to [0, 255]; a constant channel is unchanged."""
    n, c, _, _ = x_NCHW.shape
    flat_NCP = x_NCHW.flatten(2)
    low_NC11 = flat_NCP.amin(2).float().view(n, c, 1, 1)
    span_NC11 = flat_NCP.amax(2).float().view(n, c, 1, 1) - low_NC11
    plain_NC11 = span_NC11 == 0
    low_NC11 = low_NC11.masked_fill(plain_NC11, 0)
    scale_NC11 = (255 / span_NC11).masked_fill(plain_NC11, 1)
    return truncated((x_NCHW - low_NC11).mul_(scale_NC11).clamp_(0, 255))


def equalize(x_NCHW: Tensor, unused_N: Tensor) -> Tensor:  # noqa: ARG001
    """Makes each channel's histogram as flat as possible."""
    level_NCP = x_NCHW.flatten(2).long()
    table_NCL, step_NC1 = equalizing_tables(level_NCP, level_NCP.amax(2, keepdim=True))
    same_L = torch.arange(256, dtype=torch.int32, device=x_NCHW.device)
    table_NCL = torch.where(step_NC1 == 0, same_L, table_NCL)
    return table_NCL.to(torch.uint8).gather(2, level_NCP).view(x_NCHW.shape)


def equalizing_tables(level_NCP: Tensor, brightest_NC1: Tensor) -> tuple[Tensor, Tensor]:
    """For channels of P levels, and the brightest of each, the level that each of the 256 becomes,
    int32 (N, C, 256), and the steps (N, C, 1), in pixels; a step of 0 stands for no change."""
    below_NCL = _pixels_below(level_NCP)
    # The step is a 255th of the pixels below the brightest level.
    step_NC1 = below_NCL.gather(2, brightest_NC1) // 255
    table_NCL = (below_NCL + step_NC1 // 2) // step_NC1.clamp(min=1)
    return table_NCL.clamp_(max=255), step_NC1


def _pixels_below(level_NCP: Tensor) -> Tensor:
    """How many pixels of a channel are below each level: int32, (N, C, 256)."""
    n, c, p = level_NCP.shape
    if torch.compiler.is_compiling():  # one loop that keeps nothing, instead of three
        level_L1 = torch.arange(256, device=level_NCP.device)[:, None]
        return (level_NCP[:, :, None] < level_L1).sum(3, dtype=torch.int32)
    counts_NCL = torch.zeros(n, c, 256, dtype=torch.int32, device=level_NCP.device)
    one = torch.ones((), dtype=torch.int32, device=level_NCP.device)
    counts_NCL.scatter_add_(2, level_NCP, one.expand(n, c, p))
    return counts_NCL.cumsum(2, dtype=torch.int32) - counts_NCL
