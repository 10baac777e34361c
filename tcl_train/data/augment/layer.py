"""The operations of the policies in their static form: every image goes through all of them, and
its parameters turn all but one into the identity.

An operation on levels is one of four kinds: a blend with another image (brightness, colour,
contrast, sharpness), a scale from a lowest level on in whole steps (autocontrast, posterize), an
inversion from a threshold on (solarize, invert), or a table (equalize). As an image has one
operation, all can look at the image as it was before.

N: images; C: channels; H, W: rows and columns; O: numbers an image.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcl_train.data.augment.geometry import grid_matrices, moved
from tcl_train.data.augment.levels import equalizing_tables, luma
from tcl_train.data.augment.transform import by_image

NEVER = 2.0**24  # more than any level or count of pixels

# An image's numbers after the six of an affine map, and what they are without an operation.
NOTHING = {
    "amount": 0.0,  # of a blend: what is added to a factor of 1
    "luma": 0.0,  # shares of three images in the one that is blended with
    "mean": 0.0,
    "smooth": 0.0,
    "less_at_the_rim": 0.0,  # what the amount is less by in some pixels, and in grey images
    "less_if_grey": 0.0,
    "step": 1.0,  # of which levels become multiples
    "inverted": NEVER,  # the level from which on they are inverted
    "extremes": 0.0,  # 1 where a channel's lowest and highest level are asked for
    "least_span": NEVER,  # channels of a larger span of levels are stretched
    "least_step": NEVER,  # channels of a larger step are equalized
}


def layer_numbers(
    name_N: np.ndarray, magnitude_N: np.ndarray, matrix_N23: np.ndarray, height: int, width: int
) -> Tensor:
    """What :func:`apply_layers` takes of a layer, (N, O), from each image's operation, magnitude
    and matrix."""
    number_N = {number: np.full(len(name_N), value) for number, value in NOTHING.items()}

    def put(number: str, value: np.ndarray | float, *names: str) -> None:
        number_N[number] = np.where(np.isin(name_N, names), value, number_N[number])

    put("amount", magnitude_N, "Brightness", "Color", "Contrast", "Sharpness")
    put("luma", 1, "Color")
    put("mean", 1, "Contrast")
    put("smooth", 1, "Sharpness")
    put("less_at_the_rim", magnitude_N, "Sharpness")
    put("less_if_grey", magnitude_N, "Color")
    put("step", 2 ** (8 - np.trunc(magnitude_N)), "Posterize")
    put("inverted", magnitude_N, "Solarize")
    put("inverted", 0, "Invert")
    put("extremes", 1, "AutoContrast", "Equalize")
    put("least_span", 0, "AutoContrast")
    put("least_step", 0, "Equalize")
    levels_NO = torch.from_numpy(np.stack(list(number_N.values()), 1).astype(np.float32))
    grid_N23 = grid_matrices(torch.from_numpy(matrix_N23), height, width)
    return torch.cat([grid_N23.flatten(1), levels_NO], 1)


def apply_layers(x_NCHW: Tensor, numbers_NKO: Tensor) -> Tensor:
    """One layer after the other. Levels as floats, whole numbers from 0 to 255, in and out."""
    rim_HW = torch.ones(x_NCHW.shape[2:], device=x_NCHW.device)
    rim_HW[1:-1, 1:-1] = 0
    for numbers_NO in numbers_NKO.unbind(1):
        x_NCHW = _apply_layer(x_NCHW, numbers_NO, rim_HW)
    return x_NCHW


def _apply_layer(x_NCHW: Tensor, numbers_NO: Tensor, rim_HW: Tensor) -> Tensor:
    matrix_N6, levels_NO = numbers_NO.split([6, len(NOTHING)], 1)
    number = dict(zip(NOTHING, map(by_image, levels_NO.unbind(1)), strict=True))
    # Of the other images 0: a compiler puts only what differs by image in the mean's loop.
    low_NC, high_NC = (x_NCHW * number["extremes"]).flatten(2).aminmax(dim=2)
    table_NCHW, step_NC11 = _equalized(x_NCHW, high_NC)
    low_NC11, scale_NC11 = _stretching(low_NC, high_NC, number["least_span"])
    other_NCHW = _blended_with(x_NCHW, number)

    result_NCHW = moved(x_NCHW, matrix_N6.unflatten(1, (2, 3)))
    # Sharpness leaves the rim as it is, and saturation grey images.
    amount_N1HW = torch.addcmul(number["amount"], rim_HW, number["less_at_the_rim"], value=-1)
    if x_NCHW.shape[1] == 1:
        amount_N1HW = amount_N1HW - number["less_if_grey"]
    result_NCHW = result_NCHW * (1 + amount_N1HW) - other_NCHW * amount_N1HW
    result_NCHW = (
        result_NCHW.clamp_(0, 255).sub_(low_NC11).mul_(scale_NC11 / number["step"]).trunc_()
    )
    result_NCHW = result_NCHW.mul_(number["step"])
    inverted_NCHW = result_NCHW >= number["inverted"]
    result_NCHW = torch.where(inverted_NCHW, 255 - result_NCHW, result_NCHW)
    return torch.where(step_NC11 > number["least_step"], table_NCHW, result_NCHW)


def _blended_with(x_NCHW: Tensor, number: dict[str, Tensor]) -> Tensor:
    """The luma, its mean or the smoothed image, whichever has the share 1; else black."""
    luma_N1HW = luma(x_NCHW)
    mean_NC11 = luma_N1HW.expand_as(x_NCHW).mean((2, 3), keepdim=True)  # as the extremes
    other_NCHW = torch.addcmul(mean_NC11 * number["mean"], luma_N1HW, number["luma"])
    around_NCHW = F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, divisor_override=1)
    smooth_NCHW = around_NCHW.add_(x_NCHW, alpha=4).div_(13).round_()
    return torch.addcmul(other_NCHW, smooth_NCHW, number["smooth"])


def _stretching(low_NC: Tensor, high_NC: Tensor, least_span_N111: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest level and the factor that stretch channels with more than the least span; 0 and 1
    for the others."""
    low_NC11, span_NC11 = low_NC[..., None, None], (high_NC - low_NC)[..., None, None]
    kept_NC11 = span_NC11 <= least_span_N111
    return low_NC11.masked_fill(kept_NC11, 0), (255 / span_NC11).masked_fill_(kept_NC11, 1)


def _equalized(x_NCHW: Tensor, high_NC: Tensor) -> tuple[Tensor, Tensor]:
    """The images by their channels' equalizing tables, and the steps of these."""
    level_NCHW = x_NCHW.long()
    tables = equalizing_tables(level_NCHW.flatten(2), high_NC[..., None].long())
    table_NCL1, step_NC11 = (part[..., None] for part in tables)
    # An index of the images' own shape, so that a compiler need not begin another loop.
    table_NCLW = table_NCL1.float().expand(-1, -1, -1, x_NCHW.shape[3])
    return table_NCLW.gather(2, level_NCHW), step_NC11
