"""Noise of each pixel: of the sensor, of few photons, of broken pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train.data.corruptions.draws import Draws


def gaussian_noise(x_NCHW: Tensor, deviation: float, draws: Draws) -> Tensor:
    return x_NCHW + deviation * draws.normal(*x_NCHW.shape[1:]).to(x_NCHW.device)


def shot_noise(x_NCHW: Tensor, photons: float, draws: Draws) -> Tensor:
    """photons: so many reach a pixel of full brightness."""
    return draws.poisson(x_NCHW * photons).to(x_NCHW.device) / photons


def impulse_noise(x_NCHW: Tensor, share: float, draws: Draws) -> Tensor:
    """share: of the values, which become black or white."""
    u_NCHW = draws.uniform(*x_NCHW.shape[1:]).to(x_NCHW.device)
    value_NCHW = (u_NCHW < share / 2).float()
    return torch.where(u_NCHW < share, value_NCHW, x_NCHW)
