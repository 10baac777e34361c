"""Crops and flips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.transform import Parameters, per_image, uniform


class RandomResizedCrop:
    """A random box of the image, resized to the output size.

    The box has a share of the image's area from `scale` and a side ratio from `ratio`
    (log-uniform); its place is uniform. Ten tries are made to find one that lies in the image;
    after that the whole image is taken. Distribution and pixels (bilinear, antialiased where it
    shrinks) are those of torchvision's transform of the same name on tensors.
    """

    TRIES = 10

    def __init__(
        self, scale: Sequence[float] = (0.2, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        self.scale = checks.interval("scale", scale, at_least=1e-3, at_most=1)
        self.ratio = checks.interval("ratio", ratio, at_least=0.1, at_most=10)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:
        area_NT = uniform(g, *self.scale, count, self.TRIES) * (height * width)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio_NT = uniform(g, low, high, count, self.TRIES).exp()
        w_NT = (area_NT * ratio_NT).sqrt().round()
        h_NT = (area_NT / ratio_NT).sqrt().round()
        fits_NT = (w_NT >= 1) & (w_NT <= width) & (h_NT >= 1) & (h_NT <= height)
        first_N1 = fits_NT.int().argmax(1, keepdim=True)
        any_N = fits_NT.any(1)
        h_N = torch.where(any_N, h_NT.gather(1, first_N1)[:, 0], height)
        w_N = torch.where(any_N, w_NT.gather(1, first_N1)[:, 0], width)
        top_N = (torch.rand(count, generator=g) * (height - h_N + 1)).floor()
        left_N = (torch.rand(count, generator=g) * (width - w_N + 1)).floor()
        return {"top": top_N, "left": left_N, "height": h_N, "width": w_N}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        p = {name: value.to(x_NCHW.device) for name, value in parameters.items()}
        rows_NSH = interpolation_weights(p["top"], p["height"], x_NCHW.shape[2], size)
        columns_NSW = interpolation_weights(p["left"], p["width"], x_NCHW.shape[3], size)
        return resample(x_NCHW, rows_NSH, columns_NSW)


def interpolation_weights(start_N: Tensor, length_N: Tensor, extent: int, size: int) -> Tensor:
    """Along one axis, the weights (N, size, extent) with which the pixels of the interval
    [start, start + length) make `size` output pixels: a triangle filter, as wide as an output
    pixel where the interval shrinks (antialiasing) and as an input pixel where it grows."""
    scale_N11 = (length_N / size)[:, None, None]
    low_N11 = start_N[:, None, None]
    output_S1 = torch.arange(size, device=start_N.device)[:, None] + 0.5
    input_E = torch.arange(extent, device=start_N.device) + 0.5
    centre_NS1 = low_N11 + output_S1 * scale_N11
    weight_NSE = (1 - (input_E - centre_NS1).abs() / scale_N11.clamp(min=1)).clamp_(min=0)
    weight_NSE *= (input_E > low_N11) & (input_E < low_N11 + length_N[:, None, None])
    return weight_NSE / weight_NSE.sum(2, keepdim=True)


def resample(x_NCHW: Tensor, rows_NSH: Tensor, columns_NSW: Tensor) -> Tensor:
    """Applies a weight matrix an axis, each image its own: float32 in [0, 1], (N, C, S, S)."""
    n, c, h, w = x_NCHW.shape
    size = rows_NSH.shape[1]
    if x_NCHW.dtype == torch.uint8:
        rows_NSH = rows_NSH / 255
    # Rows outermost, so that both products are one batched matrix product without a copy.
    x_NHCW = x_NCHW.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    x_NSCW = torch.bmm(rows_NSH, x_NHCW.reshape(n, h, c * w))
    x_NSCS = torch.bmm(x_NSCW.view(n, size * c, w), columns_NSW.transpose(1, 2))
    return x_NSCS.view(n, size, c, size).permute(0, 2, 1, 3)


class PadCrop:
    """Zero padding on all sides, then a crop of the output size at a uniform place."""

    def __init__(self, padding: int = 4) -> None:
        self.padding = checks.integer("padding", padding, at_least=0)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"top": torch.rand(count, generator=g), "left": torch.rand(count, generator=g)}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:
        padded_NCHW = F.pad(x_NCHW, [self.padding] * 4)
        n, c, h, w = padded_NCHW.shape
        if min(h, w) < size:
            raise ValueError(
                f"images of {x_NCHW.shape[2]} x {x_NCHW.shape[3]} pixels, padded by "
                f"{self.padding}, have no crop of {size}"
            )
        device = x_NCHW.device
        top_N = (parameters["top"].to(device) * (h - size + 1)).long()
        left_N = (parameters["left"].to(device) * (w - size + 1)).long()
        offset_S = torch.arange(size, device=device)
        pixel_NSS = (top_N[:, None] + offset_S)[:, :, None] * w + (left_N[:, None] + offset_S)[
            :, None, :
        ]
        index_NCP = pixel_NSS.view(n, 1, -1).expand(n, c, -1)
        return padded_NCHW.reshape(n, c, -1).gather(2, index_NCP).view(n, c, size, size)


class HorizontalFlip:
    """Left and right change places, with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = checks.number("p", p, at_least=0, at_most=1)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"flip": torch.rand(count, generator=g) < self.p}

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        return torch.where(per_image(parameters["flip"], x_NCHW), x_NCHW.flip(3), x_NCHW)


def centre_crop(x_NCHW: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` pixels."""
    if min(x_NCHW.shape[2:]) < size:
        raise ValueError(
            f"images of {x_NCHW.shape[2]} x {x_NCHW.shape[3]} pixels have no crop of {size}"
        )
    top = (x_NCHW.shape[2] - size) // 2
    left = (x_NCHW.shape[3] - size) // 2
    return x_NCHW[:, :, top : top + size, left : left + size]
