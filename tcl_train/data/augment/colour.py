"""Colour transforms on float images. Grey images (one channel) have no saturation and no hue:
changes of only these leave them unchanged."""

from __future__ import annotations

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
        # weights of their own for each image, so that four groups do for 24 orders.
        unchosen = 4
        turn_N = to_numpy(parameters["order"]).argmax(1)  # HUE is the largest
        turn_N[~to_numpy(parameters["chosen"]).astype(bool)] = unchosen
        jitters = [partial(_jittered, hue_turn=turn) for turn in range(4)]
        blend_N43 = _blends(parameters["amount"], parameters["order"])
        shift_N = parameters["amount"][:, HUE]
        return apply_by_group(as_float(x_NCHW), turn_N, [*jitters, None], blend_N43, shift_N)

    def columns(self, parameters: Parameters, height: int, width: int, size: int) -> Parameters:  # noqa: ARG002
        """Three blends before hue's turn and three after it, of which an image's own three do
        something: (N, 3, 5), as :func:`_blend_` takes them."""
        amount_N4, order_N4 = parameters["amount"], parameters["order"]
        ends = torch.tensor([0.0, 1.0]).expand(len(amount_N4), 4, 2)
        blend_N45 = torch.cat([_blends(amount_N4, order_N4), ends], 2)
        place_41, turn_N11 = torch.arange(4)[:, None], order_N4.argmax(1)[:, None, None]
        nothing_5 = torch.tensor([1.0, 0.0, 0.0, -math.inf, math.inf])
        return {
            "before": torch.where(place_41 < turn_N11, blend_N45, nothing_5)[:, :3],
            "after": torch.where(place_41 > turn_N11, blend_N45, nothing_5)[:, 1:],
            "shift": amount_N4[:, HUE],
            "chosen": parameters["chosen"],
        }

    def apply_static(self, x_NCHW: Tensor, columns: Parameters, size: int) -> Tensor:  # noqa: ARG002
        x_NCHW = as_float(x_NCHW)
        jittered_NCHW = x_NCHW.clone()
        for blend_N5 in columns["before"].unbind(1):
            _blend_(jittered_NCHW, *blend_N5.unbind(1))
        jittered_NCHW = adjust_hue(jittered_NCHW, by_image(columns["shift"]))
        for blend_N5 in columns["after"].unbind(1):
            _blend_(jittered_NCHW, *blend_N5.unbind(1))
        return torch.where(by_image(columns["chosen"]), jittered_NCHW, x_NCHW)


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


def _blend_(
    x_NCHW: Tensor,
    factor_N: Tensor,
    to_grey_N: Tensor,
    to_mean_N: Tensor,
    *ends: Tensor,
) -> None:
    """x becomes factor x + to_grey grey(x) + to_mean mean(grey(x)) within the ends, [0, 1] or one
    pair an image: brightness, saturation and contrast are blends of the image with black, its
    greys, or their mean."""
    factor_N, to_grey_N, to_mean_N = map(by_image, (factor_N, to_grey_N, to_mean_N))
    grey_N1HW = grey(x_NCHW)
    mean_N111 = grey_N1HW.mean((1, 2, 3), keepdim=True)
    if x_NCHW.shape[1] == 1:  # saturation must leave them as they are
        factor_N, to_grey_N = factor_N + to_grey_N, torch.zeros_like(to_grey_N)
    added_N1HW = (grey_N1HW * to_grey_N).add_(mean_N111.mul_(to_mean_N))
    x_NCHW.mul_(factor_N).add_(added_N1HW)
    if ends:
        x_NCHW.clamp_(*map(by_image, ends))
    else:
        x_NCHW.clamp_(0, 1)


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
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    r, g, b = (x_NCHW[:, i : i + 1] for i in range(3))
    luma_N1HW = r * GREY_WEIGHTS[0]
    return luma_N1HW.add_(g, alpha=GREY_WEIGHTS[1]).add_(b, alpha=GREY_WEIGHTS[2])


def adjust_hue(x_NCHW: Tensor, shift_N111: Tensor) -> Tensor:
    """Turns the hue of HSV by `shift` turns.

    Hue h runs round a circle of 6, red at 0, green at 2, blue at 4 or -2. With the least channel
    m and the span C to the greatest, a channel is m + C clip(2 - d, 0, 1), d being the distance
    on the circle from h to the channel's place. Solved for h: its distance from red is
    1 + (g + b - r - m) / C, on the side of green where g > b. No case is told apart.
    """
    if x_NCHW.shape[1] == 1:
        return x_NCHW
    r, g, b = x_NCHW.unbind(1)
    least = torch.minimum(torch.minimum(r, g), b)
    span = torch.maximum(torch.maximum(r, g), b).sub_(least)
    # Where all channels are equal the span is 0, and any hue will do.
    hue = (g + b).sub_(r).sub_(least).div_(span.clamp(min=1e-12)).add_(1)
    hue = torch.copysign(hue, g - b).add_(6 * shift_N111[:, 0])
    hue.sub_((hue / 6).round_().mul_(6))  # in [-3, 3]
    turned_NCHW = torch.empty_like(x_NCHW, memory_format=torch.contiguous_format)
    red, green, blue = turned_NCHW.unbind(1)
    torch.abs(hue, out=red)
    red.neg_().add_(2)
    # The distance from h to the other two may lead over the end of [-3, 3]: it is 3 - | |t| - 3 |.
    for channel, place in ((green, -2), (blue, 2)):
        torch.add(hue, place, out=channel)
        channel.abs_().sub_(3).abs_().sub_(1)
    return turned_NCHW.clamp_(0, 1).mul_(span[:, None]).add_(least[:, None])
