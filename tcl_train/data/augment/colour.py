"""Colour transforms on float images. Grey images (one channel) have no saturation and no hue:
changes of only these leave them unchanged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tcl_train import checks
from tcl_train.data.augment.transform import (
    OfChosen,
    Parameters,
    Transform,
    apply_by_group,
    as_float,
    by_image,
    draw_chosen,
    to_numpy,
    uniform,
)

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, as in torchvision

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue, each by a random amount, in random order, with
    probability p.

    brightness, contrast, saturation: the factor is uniform in [max(0, 1 - v), 1 + v];
    hue: the shift is uniform in [-hue, hue], as a fraction of the colour circle, hue <= 0.5.
    The operations equal torchvision's on float images. torchvision rounds uint8 images down after
    each operation; here they are floats throughout.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        p: float | Sequence[float] = 0.8,
    ) -> None:
        self.brightness = checks.number("brightness", brightness, at_least=0)
        self.contrast = checks.number("contrast", contrast, at_least=0)
        self.saturation = checks.number("saturation", saturation, at_least=0)
        self.hue = checks.number("hue", hue, at_least=0, at_most=0.5)
        self.p = checks.probability("p", p)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        strengths = (self.brightness, self.contrast, self.saturation)
        amounts = [uniform(g, max(0.0, 1 - v), 1 + v, count) for v in strengths]
        amounts.append(uniform(g, -self.hue, self.hue, count))
        return {
            "amount": torch.stack(amounts, 1),
            "order": torch.rand(count, 4, generator=g).argsort(1),
            "chosen": draw_chosen(g, self.p, count),
        }

    def apply(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        # Images are grouped by when hue's turn comes. The other three are one operation with
        # different weights for each image, so that four groups do for 24 orders.
        unchosen = 4
        turn_N = to_numpy(parameters["order"]).argmax(1)  # HUE is the largest
        turn_N[~to_numpy(parameters["chosen"]).astype(bool)] = unchosen
        jitters = [partial(_jittered, hue_turn=turn) for turn in range(4)]
        blend_N43 = _blends(parameters["amount"], parameters["order"])
        shift_N = parameters["amount"][:, HUE]
        return apply_by_group(as_float(x_NCHW), turn_N, [*jitters, None], blend_N43, shift_N)

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:  # noqa: ARG002
        blend_N43 = _blends(parameters["amount"], parameters["order"])
        share_N41 = blend_N43[..., 1:].sum(2, keepdim=True)  # of which one is 0
        ends_N42 = torch.tensor([0.0, 1.0]).expand(len(blend_N43), 4, 2)
        blend_N44 = torch.cat([blend_N43[..., :1], share_N41, ends_N42], 2)
        place_N4 = STATIC_PLACES[parameters["order"].unbind(1)]
        nothing_4 = torch.tensor([1.0, 0.0, -math.inf, math.inf])
        blends = nothing_4.repeat(len(blend_N43), len(STATIC_ORDER), 1)
        return {
            "blends": blends.scatter_(1, place_N4[..., None].expand(-1, -1, 4), blend_N44),
            "shift": parameters["amount"][:, HUE],
            "chosen": parameters["chosen"],
        }

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:  # noqa: ARG002
        """In :data:`STATIC_ORDER`, of which an image's own three blends do something."""
        x_NCHW = as_float(x_NCHW)
        # A compiler makes one loop of all that is done to channels one by one, and of channels
        # together a loop for each blend, as each pixel's luma needs them all.
        parts = x_NCHW.split(1, 1) if torch.compiler.is_compiling() else (x_NCHW,)
        for kind, blend_N4 in zip(STATIC_ORDER, columns["blends"].unbind(1), strict=True):
            if kind == HUE:
                parts = turned(parts, by_image(columns["shift"]))
                continue
            factor_N111, share_N111, low_N111, high_N111 = map(by_image, blend_N4.unbind(1))
            other_N1HW = luma(parts)
            if kind == CONTRAST:
                other_N1HW = other_N1HW.mean((1, 2, 3), keepdim=True)
            elif x_NCHW.shape[1] == 1:  # saturation must leave them as they are
                factor_N111, share_N111 = factor_N111 + share_N111, torch.zeros_like(share_N111)
            added_N1HW = other_N1HW * share_N111
            parts = [
                (part * factor_N111).add_(added_N1HW).clamp_(low_N111, high_N111) for part in parts
            ]
        jittered_NCHW = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return torch.where(by_image(columns["chosen"]), jittered_NCHW, x_NCHW)


# Every order of the four operations is a part of this one, in which saturation stands for
# brightness, too: both are blends with an image's greys.
_SIDE = [SATURATION, SATURATION, CONTRAST, SATURATION, SATURATION]
STATIC_ORDER = [*_SIDE, HUE, *_SIDE]


def _static_places() -> Tensor:
    """By order, its numbers as four indices, where its turns are in STATIC_ORDER: (4, 4, 4, 4, 4),
    the last dimension for the turns."""
    places = torch.zeros(4, 4, 4, 4, 4, dtype=torch.long)
    for order in itertools.permutations(range(4)):
        place = -1
        for turn, kind in enumerate(order):
            standing = SATURATION if kind == BRIGHTNESS else kind
            place = STATIC_ORDER.index(standing, place + 1)
            places[order][turn] = place
    return places


STATIC_PLACES = _static_places()


def _jittered(x_NCHW: Tensor, blend_N43: Tensor, shift_N: Tensor, *, hue_turn: int) -> Tensor:
    """Changes the images in place."""
    for turn in range(4):
        if turn == hue_turn:
            x_NCHW = adjust_hue(x_NCHW, by_image(shift_N))
        else:
            _blend_(x_NCHW, *blend_N43[:, turn].unbind(1))
    return x_NCHW


def _blends(amount_N4: Tensor, order_N4: Tensor) -> Tensor:
    """Turn by turn what :func:`_blend_` takes for an image's operation, (N, 4, 3). Row n of the
    order gives image n's operations in turn; hue's row means nothing."""
    factor_N4 = amount_N4.gather(1, order_N4)
    to_grey_N4 = torch.where(order_N4 == SATURATION, 1 - factor_N4, 0)
    to_mean_N4 = torch.where(order_N4 == CONTRAST, 1 - factor_N4, 0)
    return torch.stack([factor_N4, to_grey_N4, to_mean_N4], 2)


def _blend_(x_NCHW: Tensor, factor_N: Tensor, to_grey_N: Tensor, to_mean_N: Tensor) -> None:
    """x becomes factor x + to_grey grey(x) + to_mean mean(grey(x)) within [0, 1]: brightness,
    saturation and contrast are blends of the image with black, its greys, or their mean."""
    factor_N, to_grey_N, to_mean_N = map(by_image, (factor_N, to_grey_N, to_mean_N))
    grey_N1HW = grey(x_NCHW)
    mean_N111 = grey_N1HW.mean((1, 2, 3), keepdim=True)
    if x_NCHW.shape[1] == 1:  # saturation must leave them as they are
        factor_N, to_grey_N = factor_N + to_grey_N, torch.zeros_like(to_grey_N)
    added_N1HW = (grey_N1HW * to_grey_N).add_(mean_N111.mul_(to_mean_N))
    x_NCHW.mul_(factor_N).add_(added_N1HW).clamp_(0, 1)


class RandomGrayscale(OfChosen):
    """All channels become the image's luma, with probability p."""

    choice = "grey"

    def __init__(self, p: float | Sequence[float] = 0.2) -> None:
        self.p = checks.probability("p", p)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"grey": draw_chosen(g, self.p, count)}

    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        return grey(x_NCHW).expand_as(x_NCHW)


class Solarize(OfChosen):
    """Inverts levels at or above `threshold` (0 to 255), with probability p."""

    choice = "solarize"

    def __init__(self, threshold: float = 128, p: float | Sequence[float] = 0.2) -> None:
        self.threshold = checks.number("threshold", threshold, at_least=0, at_most=255)
        self.p = checks.probability("p", p)

    def draw(self, count: int, height: int, width: int, g: torch.Generator) -> Parameters:  # noqa: ARG002
        return {"solarize": draw_chosen(g, self.p, count)}

    def change(self, x_NCHW: Tensor, parameters: Parameters, size: int) -> Tensor:  # noqa: ARG002
        return torch.where(x_NCHW >= self.threshold / 255, 1 - x_NCHW, x_NCHW)


def grey(x_NCHW: Tensor) -> Tensor:
    """The luma (N, 1, H, W)."""
    return luma([x_NCHW])


def luma(parts: Sequence[Tensor]) -> Tensor:
    """The same of an image, (N, C, H, W), or of its channels, each (N, 1, H, W)."""
    channels = _channels(parts)
    if len(channels) == 1:
        return channels[0]
    r, g, b = channels
    luma_N1HW = r * GREY_WEIGHTS[0]
    return luma_N1HW.add_(g, alpha=GREY_WEIGHTS[1]).add_(b, alpha=GREY_WEIGHTS[2])


def _channels(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    return parts[0].split(1, 1) if len(parts) == 1 else parts


def adjust_hue(x_NCHW: Tensor, shift_N111: Tensor) -> Tensor:
    """Turns the hue of HSV by `shift` turns."""
    return turned([x_NCHW], shift_N111)[0]


def turned(parts: Sequence[Tensor], shift_N111: Tensor) -> Sequence[Tensor]:
    """The same of an image, (N, C, H, W), or of its channels, each (N, 1, H, W).

    Hue h runs round a circle of 6, red at 0, green at 2, blue at 4 or -2. With the least channel
    m and the span C to the greatest, a channel is m + C clip(2 - d, 0, 1), d being the distance
    on the circle from h to the channel's place. Solved for h: its distance from red is
    1 + (g + b - r - m) / C, on the side of green where g > b. No case is told apart.
    """
    channels = _channels(parts)
    if len(channels) == 1:
        return parts
    r, g, b = channels
    least = torch.minimum(torch.minimum(r, g), b)
    span = torch.maximum(torch.maximum(r, g), b).sub_(least)
    # Where all channels are equal the span is 0, and any hue will do.
    hue = (g + b).sub_(r).sub_(least).div_(span.clamp(min=1e-12)).add_(1)
    hue = torch.copysign(hue, g - b).add_(6 * shift_N111)
    hue.sub_((hue / 6).round_().mul_(6))  # in [-3, 3]
    red = hue.abs().neg_().add_(2)
    # The distance from h to the other two may lead over the end of [-3, 3]: it is 3 - | |t| - 3 |.
    green, blue = ((hue + place).abs_().sub_(3).abs_().sub_(1) for place in (-2, 2))
    shares = [torch.cat([red, green, blue], 1)] if len(parts) == 1 else [red, green, blue]
    return [share.clamp_(0, 1).mul_(span).add_(least) for share in shares]
