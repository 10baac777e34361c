"""Colour transforms. Grey images (one channel) have no saturation and no hue: what would change
only those leaves them as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.transform import Parameters, as_float, per_image, uniform

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as in torchvision


class ColorJitter:
    """Brightness, contrast, saturation and hue, each by a random amount, in random order, with
    probability p.

    brightness, contrast, saturation: the factor is uniform in [max(0, 1 - v), 1 + v];
    hue: the shift is uniform in [-hue, hue], in turns of the colour circle, hue <= 0.5.
    The operations are torchvision's of the same names.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        p: float = 0.8,
    ) -> None:
        self.brightness = checks.number("brightness", brightness, at_least=0)
        self.contrast = checks.number("contrast", contrast, at_least=0)
        self.saturation = checks.number("saturation", saturation, at_least=0)
        self.hue = checks.number("hue", hue, at_least=0, at_most=0.5)
        self.p = checks.number("p", p, at_least=0, at_most=1)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        strengths = (self.brightness, self.contrast, self.saturation)
        amounts = [uniform(g, max(0.0, 1 - v), 1 + v, count) for v in strengths]
        amounts.append(uniform(g, -self.hue, self.hue, count))
        return {
            "amount": torch.stack(amounts, 1),
            "order": torch.rand(count, 4, generator=g).argsort(1),
            "chosen": torch.rand(count, generator=g) < self.p,
        }

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        x_NCHW = as_float(x_NCHW).clone()
        operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for place in range(4):
            for which, operation in enumerate(operations):
                # The parameters are on the CPU, so this asks nothing of the device.
                here_N = parameters["chosen"] & (parameters["order"][:, place] == which)
                rows_M = here_N.nonzero()[:, 0]
                if len(rows_M):
                    amount_M111 = per_image(parameters["amount"][rows_M, which], x_NCHW)
                    rows_M = rows_M.to(x_NCHW.device, non_blocking=True)
                    x_NCHW[rows_M] = operation(x_NCHW[rows_M], amount_M111)
        return x_NCHW


class RandomGrayscale:
    """All channels become the image's luma, with probability p."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = checks.number("p", p, at_least=0, at_most=1)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"grey": torch.rand(count, generator=g) < self.p}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        x_NCHW = as_float(x_NCHW)
        return torch.where(per_image(parameters["grey"], x_NCHW), grey(x_NCHW), x_NCHW)


def grey(x_NCHW: Tensor) -> Tensor:
    """The luma (N, 1, H, W)."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    r, g, b = (w * x_NCHW[:, i : i + 1] for i, w in enumerate(GREY_WEIGHTS))
    return r + g + b


def _blend(x_NCHW: Tensor, other: Tensor | float, factor_N111: Tensor) -> Tensor:
    return (factor_N111 * x_NCHW + (1 - factor_N111) * other).clamp_(0, 1)


def adjust_brightness(x_NCHW: Tensor, factor_N111: Tensor) -> Tensor:
    return _blend(x_NCHW, 0.0, factor_N111)


def adjust_contrast(x_NCHW: Tensor, factor_N111: Tensor) -> Tensor:
    return _blend(x_NCHW, grey(x_NCHW).mean((1, 2, 3), keepdim=True), factor_N111)


def adjust_saturation(x_NCHW: Tensor, factor_N111: Tensor) -> Tensor:
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    return _blend(x_NCHW, grey(x_NCHW), factor_N111)


def adjust_hue(x_NCHW: Tensor, shift_N111: Tensor) -> Tensor:
    """Turns the hue of HSV by `shift` turns."""
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    r, g, b = x_NCHW.unbind(1)
    value = x_NCHW.amax(1)
    chroma = value - x_NCHW.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    sector = sector + 6 * shift_N111[:, 0]
    # A channel is value - chroma * clip(min(k, 4 - k), 0, 1) with k its distance round the circle.
    channels = []
    for offset in (5, 3, 1):
        k = (sector + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, 1)
