"""Blur of the lens, of frosted glass, of a moving camera and of a zooming one.

N: images; C: channels; H, W: rows and columns; P: points; K: side of a kernel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.data.augment.blur import gaussian_blur
from tcl_train.data.corruptions.draws import Draws
from tcl_train.data.corruptions.fields import moved

RINGS, SPOKES = 12, 24
POINTS_A_PIXEL = 4
GLASS_STEPS = 2


def defocus_blur(x_NCHW: Tensor, radius: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """Each point becomes a disc. radius: a share of the side."""
    share_P = (torch.arange(RINGS) + 0.5) / RINGS
    ring_P = radius * side_of(x_NCHW) * share_P.sqrt()  # of equal areas
    angle_Q = torch.arange(SPOKES) * (2 * math.pi / SPOKES)
    down_P = (ring_P[:, None] * angle_Q.sin()).flatten()
    right_P = (ring_P[:, None] * angle_Q.cos()).flatten()
    n = len(x_NCHW)
    return mean_of_moved(x_NCHW, down_P.expand(n, -1), right_P.expand(n, -1))


def motion_blur(x_NCHW: Tensor, length: float, draws: Draws) -> Tensor:
    """Each point becomes a line in a direction of its image. length: a share of the side."""
    pixels = length * side_of(x_NCHW)
    points = max(5, math.ceil(POINTS_A_PIXEL * pixels))
    along_P = torch.linspace(-pixels / 2, pixels / 2, points)
    angle_N1 = math.pi * draws.uniform(1)
    return mean_of_moved(x_NCHW, along_P * angle_N1.sin(), along_P * angle_N1.cos())


def mean_of_moved(x_NCHW: Tensor, down_NP: Tensor, right_NP: Tensor) -> Tensor:
    """The mean of the image moved by so many pixels, bilinear between them, as a convolution."""
    reach = math.ceil(max(down_NP.abs().max().item(), right_NP.abs().max().item()))
    place_K = torch.arange(-reach, reach + 1)
    weight_NPK1 = (1 - (down_NP[..., None] - place_K).abs()).clamp(min=0)[..., None]
    weight_NP1K = (1 - (right_NP[..., None] - place_K).abs()).clamp(min=0)[..., None, :]
    kernel_NKK = (weight_NPK1.transpose(1, 2).squeeze(3) @ weight_NP1K.squeeze(2)) / down_NP.shape[
        1
    ]
    n, c, height, width = x_NCHW.shape
    padded_NCHW = F.pad(x_NCHW, [reach] * 4, mode="replicate")
    kernel_M1KK = kernel_NKK.to(x_NCHW.device).repeat_interleave(c, 0)[:, None]
    one_1MHW = padded_NCHW.reshape(1, n * c, *padded_NCHW.shape[2:])
    return F.conv2d(one_1MHW, kernel_M1KK, groups=n * c).view(n, c, height, width)


def glass_blur(x_NCHW: Tensor, reach: float, draws: Draws) -> Tensor:
    """Each pixel comes from a random place near it, twice, with a slight blur before and after.
    reach: how far, as a share of the side."""
    side = side_of(x_NCHW)
    x_NCHW = _slightly_blurred(x_NCHW, reach * side / 4)
    for _ in range(GLASS_STEPS):
        move_N2HW = (2 * draws.uniform(2, *x_NCHW.shape[2:]) - 1).to(x_NCHW.device) * reach * side
        x_NCHW = moved(x_NCHW, move_N2HW[:, 0], move_N2HW[:, 1])
    return _slightly_blurred(x_NCHW, reach * side / 4)


def _slightly_blurred(x_NCHW: Tensor, deviation: float) -> Tensor:
    radius = min(math.ceil(3 * deviation), min(x_NCHW.shape[2:]) - 1)
    return gaussian_blur(x_NCHW, x_NCHW.new_full((len(x_NCHW),), deviation), radius)


def zoom_blur(x_NCHW: Tensor, zoom: float, draws: Draws) -> Tensor:  # noqa: ARG001
    """The mean of the image at magnifications from 1 to `zoom`."""
    height, width = x_NCHW.shape[2:]
    down_H1 = torch.arange(height, device=x_NCHW.device)[:, None] - (height - 1) / 2
    right_W = torch.arange(width, device=x_NCHW.device) - (width - 1) / 2
    steps = max(5, math.ceil((zoom - 1) * side_of(x_NCHW) / 2) + 1)
    total_NCHW = torch.zeros_like(x_NCHW)
    for magnification in torch.linspace(1, zoom, steps).tolist():
        factor = 1 / magnification - 1
        down_NHW = (down_H1 * factor).expand(len(x_NCHW), height, width)
        right_NHW = (right_W * factor).expand(len(x_NCHW), height, width)
        total_NCHW += moved(x_NCHW, down_NHW, right_NHW)
    return total_NCHW / steps


def side_of(x_NCHW: Tensor) -> int:
    """The shorter side, in pixels."""
    return min(x_NCHW.shape[2:])
