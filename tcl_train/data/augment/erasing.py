"""Random erasing (cutout, where the box is a square of one size)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.transform import (
    OfChosen,
    Parameters,
    draw_chosen,
    random_sides,
)


class RandomErasing(OfChosen):
    """Fills a random box with one value, with probability p. Zhong et al. 2020.

    The box has a share of the image's area from `scale` and a ratio of height to width from
    `ratio` (log-uniform); if ten tries give no box smaller than the image, the image is unchanged.
    `value`: from 0 (black) to 1 (white). One difference from torchvision: there, erasing comes
    after normalisation, so that 0 is the data set's mean.
    """

    choice = "erase"
    takes_levels = True
    TRIES = 10

    def __init__(
        self,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float = 0.0,
        p: float | Sequence[float] = 0.5,
    ) -> None:
        self.scale = checks.interval("scale", scale, at_least=1e-3, at_most=1)
        self.ratio = checks.interval("ratio", ratio, at_least=0.05, at_most=20)
        self.value = checks.number("value", value, at_least=0, at_most=1)
        self.p = checks.probability("p", p)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        h_NT, w_NT = random_sides(
            g, count, self.TRIES, area=height * width, scale=self.scale, ratio=self.ratio
        )
        fits_NT = (h_NT < height) & (w_NT < width)
        first_N1 = fits_NT.int().argmax(1, keepdim=True)
        h_N, w_N = h_NT.gather(1, first_N1)[:, 0], w_NT.gather(1, first_N1)[:, 0]
        return {
            "top": (torch.rand(count, generator=g) * (height - h_N + 1)).floor(),
            "left": (torch.rand(count, generator=g) * (width - w_N + 1)).floor(),
            "height": h_N,
            "width": w_N,
            "erase": draw_chosen(g, self.p, count) & fits_NT.any(1),
        }

    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        value = self.value if x_NCHW.is_floating_point() else round(self.value * 255)
        rows_NH = _within(parameters["top"], parameters["height"], x_NCHW.shape[2])
        columns_NW = _within(parameters["left"], parameters["width"], x_NCHW.shape[3])
        return x_NCHW.masked_fill((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], value)


def _within(start_M: Tensor, length_M: Tensor, extent: int) -> Tensor:
    place_E = torch.arange(extent, device=start_M.device)
    return (place_E >= start_M[:, None]) & (place_E < (start_M + length_M)[:, None])
