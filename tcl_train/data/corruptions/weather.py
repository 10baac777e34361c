"""Snow, frost, fog and bright light.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcl_train.data.corruptions.blur import motion_blur, side_of
from tcl_train.data.corruptions.draws import Draws
from tcl_train.data.corruptions.fields import cloudy, random_field, smooth

FLAKE = 0.03  # the size of a flake, as a share of the side
TRAIL = 0.08  # how far it falls while the picture is taken
NEEDLES = 24  # of ice in an image
NEEDLE_WIDTH = 0.03  # as a share of the side
ICE = (0.82, 0.92, 1.0)
HAZE = 0.9


def snow(x_NCHW: Tensor, amount: float, draws: Draws) -> Tensor:
    """Flakes that fall in a direction of the image, and a paler scene. amount: the share of the
    image that flakes cover before they are blurred, and, times two, of the paleness."""
    field_NHW = random_field(draws, x_NCHW, smooth(FLAKE))
    flat_NP = field_NHW.flatten(1)
    covered = max(1, round(amount * flat_NP.shape[1]))
    least_N11 = flat_NP.topk(covered, dim=1).values[:, -1, None, None]
    flakes_N1HW = (field_NHW >= least_N11).float()[:, None]
    flakes_N1HW = motion_blur(flakes_N1HW, TRAIL, draws)
    pale_NCHW = torch.maximum(x_NCHW, 0.5 + 0.5 * x_NCHW.mean(1, keepdim=True))
    scene_NCHW = torch.lerp(x_NCHW, pale_NCHW, min(1.0, 2 * amount))
    return scene_NCHW + (1 - scene_NCHW) * flakes_N1HW


def frost(x_NCHW: Tensor, opacity: float, draws: Draws) -> Tensor:
    """Ice on a pane before the scene: needles that cross at angles of 60 degrees, thicker in some
    places than in others."""
    ice_N1HW = _ice(x_NCHW, draws)[:, None]
    colour_C11 = torch.tensor(ICE, device=x_NCHW.device)[:, None, None]
    if x_NCHW.shape[1] == 1:
        colour_C11 = colour_C11.mean(0, keepdim=True)
    return torch.lerp(x_NCHW, colour_C11.expand_as(x_NCHW), opacity * ice_N1HW)


def _ice(x_NCHW: Tensor, draws: Draws) -> Tensor:
    """How much ice there is at each pixel, (N, H, W), from 0.2 to 1."""
    n, _, height, width = x_NCHW.shape
    device, side = x_NCHW.device, side_of(x_NCHW)
    row_H1 = (torch.arange(height, device=device)[:, None] + 0.5) / side
    column_W = (torch.arange(width, device=device) + 0.5) / side
    turn_N = draws.uniform().to(device) * (math.pi / 3)
    needles_N4M = draws.uniform(4, NEEDLES).to(device)
    ice_NHW = torch.zeros(n, height, width, device=device)
    for m, needle_N4 in enumerate(needles_N4M.unbind(2)):
        row_N, column_N, length_N, third_N = needle_N4.unbind(1)
        angle_N = turn_N + (third_N * 3).floor() * (math.pi / 3)
        down_NHW = row_H1 - (row_N * height / side)[:, None, None]
        right_NHW = column_W - (column_N * width / side)[:, None, None]
        sine_N11, cosine_N11 = angle_N.sin()[:, None, None], angle_N.cos()[:, None, None]
        along_NHW = (down_NHW * sine_N11 + right_NHW * cosine_N11).abs()
        across_NHW = (right_NHW * sine_N11 - down_NHW * cosine_N11).abs()
        # A needle is pointed, and half of them are thin.
        half_N11 = (0.2 + 0.5 * length_N)[:, None, None]
        width_NHW = NEEDLE_WIDTH * (1 - along_NHW / half_N11).clamp(min=0) / (1 + m % 2)
        needle_NHW = (1.5 - across_NHW / width_NHW.clamp(min=1e-6)).clamp(0, 1)
        ice_NHW = torch.maximum(ice_NHW, needle_NHW)
    thickness_NHW = random_field(draws, x_NCHW, cloudy(1.5)).mul(0.25).add(0.5).clamp(0, 1)
    return (0.2 + 0.4 * thickness_NHW + 0.6 * ice_NHW).clamp(max=1)


def fog(x_NCHW: Tensor, opacity: float, draws: Draws) -> Tensor:
    """Light grey haze, denser in some places: a field with detail at every size. opacity: where it
    is densest."""
    cloud_NHW = random_field(draws, x_NCHW, cloudy(1.7)).mul(0.2).add(0.75).clamp(0.3, 1)
    haze_NCHW = torch.full_like(x_NCHW, HAZE)
    return torch.lerp(x_NCHW, haze_NCHW, opacity * cloud_NHW[:, None])


def brightness(x_NCHW: Tensor, added: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """Added to the brightest channel of each pixel (value in HSV), up to 1; hue and saturation
    stay."""
    value_N1HW = x_NCHW.amax(1, keepdim=True)
    brighter_N1HW = (value_N1HW + added).clamp(max=1)
    scaled_NCHW = x_NCHW * (brighter_N1HW / value_N1HW.clamp(min=1e-6))
    return torch.where(value_N1HW > 0, scaled_NCHW, brighter_N1HW)
