"""Blurring, and its opposite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.levels import blend
from tcl_train.data.augment.transform import (
    OfChosen,
    Parameters,
    draw_chosen,
    uniform,
)


class GaussianBlur(OfChosen):
    """Gaussian blur with probability p; the standard deviation is uniform in `sigma`, in pixels.

    The kernel is `kernel` pixels wide, an odd number; `auto` is a tenth of the image's side, as in
    SimCLR, but at least 3. Borders are mirrored, as in torchvision.
    """

    choice = "blur"

    def __init__(
        self,
        sigma: Sequence[float] = (0.1, 2.0),
        kernel: int | str = "auto",
        p: float | Sequence[float] = 0.5,
    ) -> None:
        self.sigma = checks.interval("sigma", sigma, at_least=0.01, at_most=100)
        if kernel != "auto":
            checks.integer("kernel (or auto)", kernel, at_least=1)
            if int(kernel) % 2 == 0:
                raise ValueError(f"kernel must be auto or an odd number of pixels, got {kernel}")
        self.kernel = kernel
        self.p = checks.probability("p", p)

    def output_size(self, height: int, width: int, size: int) -> tuple[int, int]:  # noqa: ARG002
        if self.radius(height, width) >= min(height, width):
            raise ValueError(
                f"images of {height} x {width} pixels are too small for a kernel of "
                f"{2 * self.radius(height, width) + 1}"
            )
        return height, width

    def radius(self, height: int, width: int) -> int:
        if self.kernel == "auto":
            return max(1, min(height, width) // 20)
        return int(self.kernel) // 2

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"sigma": uniform(g, *self.sigma, count), "blur": draw_chosen(g, self.p, count)}

    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        height, width = x_NCHW.shape[2:]
        self.output_size(height, width, size)
        return gaussian_blur(x_NCHW, parameters["sigma"], self.radius(height, width))


def gaussian_blur(x_NCHW: Tensor, sigma_N: Tensor, radius: int) -> Tensor:
    """A separable blur; each image has its own standard deviation."""
    offset_K = torch.arange(-radius, radius + 1, device=x_NCHW.device)
    weight_NK = (-0.5 * (offset_K / sigma_N[:, None]).square()).exp()
    weight_NK = weight_NK / weight_NK.sum(1, keepdim=True)
    for axis, padding in ((3, [radius, radius, 0, 0]), (2, [0, 0, radius, radius])):
        padded_NCHW = F.pad(x_NCHW, padding, mode="reflect")
        length = x_NCHW.shape[axis]
        x_NCHW = torch.zeros_like(x_NCHW, memory_format=torch.contiguous_format)
        for k in range(2 * radius + 1):
            x_NCHW += padded_NCHW.narrow(axis, k, length) * weight_NK[:, k, None, None, None]
    return x_NCHW


def sharpness(x_NCHW: Tensor, magnitude_N: Tensor) -> Tensor:
    """Away from the smoothed image (magnitude above 0) or towards it; uint8 in and out.

    As torchvision's: each pixel is averaged with its neighbours, itself counting five times; the
    border stays as it is.
    """
    if min(x_NCHW.shape[2:]) <= 2:
        return x_NCHW
    level_NCHW = x_NCHW.float()
    across_NCHV = level_NCHW[..., :-2] + level_NCHW[..., 1:-1] + level_NCHW[..., 2:]
    smooth_NCUV = across_NCHV[:, :, :-2] + across_NCHV[:, :, 1:-1] + across_NCHV[:, :, 2:]
    inner_NCUV = level_NCHW[:, :, 1:-1, 1:-1]
    smooth_NCUV.add_(inner_NCUV, alpha=4).div_(13).round_()
    result_NCHW = x_NCHW.clone()
    result_NCHW[:, :, 1:-1, 1:-1] = blend(inner_NCUV, smooth_NCUV, magnitude_N)
    return result_NCHW
