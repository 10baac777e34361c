"""Random fields over images, and moving an image's pixels along a field.

N: images; C: channels; H, W: rows and columns. Lengths are shares of the image's side, frequencies
are cycles an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.data.corruptions.draws import Draws


def random_field(draws: Draws, like_NCHW: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """(N, H, W) of mean 0 and standard deviation 1 an image: white noise whose waves of a frequency
    are multiplied by its `gain`."""
    height, width = like_NCHW.shape[2:]
    down_H1 = torch.fft.fftfreq(height)[:, None] * height
    right_V = torch.fft.rfftfreq(width)[None] * width
    gain_HV = gain((down_H1.square() + right_V.square()).sqrt())
    gain_HV[0, 0] = 0  # no mean
    waves_NHV = torch.fft.rfft2(draws.normal(height, width)) * gain_HV
    field_NHW = torch.fft.irfft2(waves_NHV, s=(height, width))
    deviation_N11 = field_NHW.std((1, 2), correction=0, keepdim=True)
    return (field_NHW / deviation_N11.clamp(min=1e-6)).to(like_NCHW.device)


def smooth(length: float) -> Callable[[Tensor], Tensor]:
    """A gain for fields that vary over about this share of the side."""
    return lambda frequency: (-0.5 * (torch.pi * length * frequency).square()).exp()


def cloudy(roughness: float) -> Callable[[Tensor], Tensor]:
    """A gain for fields with detail at every size, as clouds have: frequency^-roughness."""
    return lambda frequency: frequency.clamp(min=1) ** -roughness


def moved(x_NCHW: Tensor, down_NHW: Tensor, right_NHW: Tensor) -> Tensor:
    """Each output pixel is the input, bilinear between pixels, so many pixels below and to the
    right of it; outside the image its border goes on."""
    height, width = x_NCHW.shape[2:]
    device = x_NCHW.device
    row_H1 = torch.arange(height, device=device)[:, None] + down_NHW
    column_W = torch.arange(width, device=device) + right_NHW
    # In the unit of grid_sample the image reaches from -1 to 1.
    grid_NHW2 = torch.stack([(column_W * 2 + 1) / width - 1, (row_H1 * 2 + 1) / height - 1], 3)
    return F.grid_sample(
        x_NCHW, grid_NHW2, mode="bilinear", padding_mode="border", align_corners=False
    )
