"""Colour transforms, against torchvision's on float images.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvisions

from tcl_train.data.augment import ColorJitter, RandomGrayscale, Solarize
from tcl_train.data.augment.colour import adjust_hue, grey

few = settings(max_examples=60)

# torchvision's, in the order in which ColorJitter numbers them.
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "brightness": torchvisions.adjust_brightness,
    "contrast": torchvisions.adjust_contrast,
    "saturation": torchvisions.adjust_saturation,
    "hue": torchvisions.adjust_hue,
}
CHANGE_NOTHING = [1.0, 1.0, 1.0, 0.0]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def special_colours() -> Tensor:
    """An image (3, 1, P) of black, white, greys, and all colours from a few levels: among them the
    saturated ones, and those where two channels are equal."""
    levels = (0.0, 1 / 255, 0.25, 0.5, 254 / 255, 1.0)
    return torch.tensor(list(itertools.product(levels, repeat=3))).T[:, None]


def images(channels: int, seed: int = 0) -> Tensor:
    """Noise of 8-bit levels and, in colour, the special colours, as float (N, C, H, W)."""
    shape = (4, channels, 12, 18)
    noise_NCHW = torch.randint(256, shape, generator=seeded(seed)) / 255
    noise_NCHW[1] = noise_NCHW[1, :1]  # a grey image
    if channels == 3:
        noise_NCHW[2] = special_colours().reshape(3, 12, 18)
    noise_NCHW[3] = noise_NCHW[3].round()  # saturated
    return noise_NCHW


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ each operation


def jittered(x_NCHW: Tensor, name: str, amounts: Sequence[float]) -> Tensor:
    """What ColorJitter makes of the images with these amounts of one operation, an amount an image,
    while the other operations change nothing."""
    amount_N4 = torch.tensor([CHANGE_NOTHING] * len(amounts))
    amount_N4[:, list(OPERATIONS).index(name)] = torch.tensor(amounts)
    parameters = {
        "amount": amount_N4,
        "order": torch.arange(4).expand(len(amounts), 4),
        "chosen": torch.ones(len(amounts), dtype=torch.bool),
    }
    return ColorJitter().apply(x_NCHW, parameters, 12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.999, 1.0, 1.4, 2.0, 7.5])
def test_a_factor_does_what_torchvisions_does(name: str, channels: int, factor: float) -> None:
    x_NCHW = images(channels)
    expected_NCHW = torch.stack([OPERATIONS[name](x_CHW, factor) for x_CHW in x_NCHW])
    close(jittered(x_NCHW, name, [factor] * 4), expected_NCHW)


@pytest.mark.parametrize("shift", np.linspace(-0.5, 0.5, 41).tolist())
def test_a_hue_shift_does_what_torchvisions_does_round_the_whole_circle(shift: float) -> None:
    x_NCHW = images(3)
    expected_NCHW = torch.stack([torchvisions.adjust_hue(x_CHW, shift) for x_CHW in x_NCHW])
    close(jittered(x_NCHW, "hue", [shift] * 4), expected_NCHW)


@few
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    shift=st.floats(-0.5, 0.5),
)
def test_a_hue_shift_of_one_pixel_is_that_of_pythons_own_hsv(
    colour: tuple[int, int, int], shift: float
) -> None:
    h, s, v = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
    expected = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    x_NCHW = torch.tensor(colour).view(1, 3, 1, 1) / 255
    found = adjust_hue(x_NCHW, torch.tensor(shift).view(1, 1, 1, 1))
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_has_an_amount_of_its_own(name: str) -> None:
    x_NCHW = images(3)
    amounts = [0.5, 0.1, 0.3, 0.0]
    found_NCHW = jittered(x_NCHW, name, amounts)
    for x_CHW, amount, found_CHW in zip(x_NCHW, amounts, found_NCHW, strict=True):
        close(found_CHW, OPERATIONS[name](x_CHW, amount))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_result_stays_between_black_and_white(name: str) -> None:
    for amount in (-0.5, 0.5) if name == "hue" else (0.0, 3.0):
        found_NCHW = jittered(images(3), name, [amount] * 4)
        assert found_NCHW.min() >= -1e-6
        assert found_NCHW.max() <= 1 + 1e-6


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_grey_pixels_have_no_hue_and_no_saturation(value: float) -> None:
    x_NCHW = torch.full((1, 3, 2, 2), value)
    close(jittered(x_NCHW, "hue", [0.3]), x_NCHW)
    for factor in (0.2, 3.0):
        found_NCHW = jittered(x_NCHW, "saturation", [factor])
        # The weights of the luma, torchvision's too, sum to 0.9999.
        torch.testing.assert_close(found_NCHW, x_NCHW, rtol=0, atol=3e-4)


def test_grey_images_are_left_alone_by_hue_and_saturation() -> None:
    x_NCHW = images(1)
    for name in ("hue", "saturation"):
        assert torch.equal(jittered(x_NCHW, name, [0.3, 0.0, 0.45, 0.5]), x_NCHW)


def test_grey_is_torchvisions_luma() -> None:
    for channels in (1, 3):
        x_NCHW = images(channels)
        close(grey(x_NCHW), torchvisions.rgb_to_grayscale(x_NCHW))


# ------------------------------------------------------------------ ColorJitter


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_jitter_is_torchvisions_operations_in_the_drawn_order(
    channels: int, dtype: torch.dtype
) -> None:
    """All 24 orders, an image for each."""
    orders = list(itertools.permutations(range(4)))
    x_NCHW = torch.randint(256, (24, channels, 6, 7), generator=seeded(0), dtype=torch.uint8)
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.4, p=1)
    parameters = {**jitter.draw(24, 6, 7, seeded(1)), "order": torch.tensor(orders)}
    given_NCHW = x_NCHW if dtype == torch.uint8 else x_NCHW / 255
    found_NCHW = jitter.apply(given_NCHW, parameters, 6)
    assert found_NCHW.dtype == torch.float32
    theirs = list(OPERATIONS.values())
    for i, order in enumerate(orders):
        expected_CHW = x_NCHW[i] / 255
        for which in order:
            expected_CHW = theirs[which](expected_CHW, parameters["amount"][i, which].item())
        close(found_NCHW[i], expected_CHW)


def test_images_that_are_not_chosen_are_left_alone() -> None:
    x_NCHW = images(3)
    jitter = ColorJitter(p=1)
    parameters = {
        **jitter.draw(4, 12, 18, seeded(0)),
        "chosen": torch.tensor([True, False, True, False]),
    }
    found_NCHW = jitter.apply(x_NCHW, parameters, 12)
    assert [torch.equal(a, b) for a, b in zip(found_NCHW, x_NCHW, strict=True)] == [
        False,
        True,
        False,
        True,
    ]


def test_amounts_are_uniform_in_their_intervals() -> None:
    jitter = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.0, hue=0.2)
    amount_N4 = jitter.draw(4000, 8, 8, seeded(0))["amount"]
    ends = [(0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.2, 0.2)]
    for amount_N, (low, high) in zip(amount_N4.unbind(1), ends, strict=True):
        span = high - low
        assert low - 1e-6 <= amount_N.min() <= low + 0.01 * span + 1e-6
        assert high - 0.01 * span - 1e-6 <= amount_N.max() <= high + 1e-6
        assert abs(amount_N.mean() - (low + high) / 2) <= 0.02 * span + 1e-6
        assert abs(amount_N.std() - span / math.sqrt(12)) <= 0.02 * span + 1e-6


def test_all_orders_occur_equally_often() -> None:
    """Chi-squared over 24 orders; its 99.9 % quantile with 23 degrees is 49.7."""
    order_N4 = ColorJitter().draw(4800, 8, 8, seeded(0))["order"]
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for order in order_N4.tolist():
        counts[tuple(order)] += 1
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 49.7


@pytest.mark.parametrize("p", [0.0, 0.8, 1.0])
def test_a_share_p_of_the_images_is_jittered(p: float) -> None:
    chosen_N = ColorJitter(p=p).draw(2000, 8, 8, seeded(0))["chosen"]
    assert abs(chosen_N.float().mean() - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


def test_strengths_of_0_change_nothing() -> None:
    jitter = ColorJitter(0, 0, 0, 0, p=1)
    close(jitter.apply(images(3), jitter.draw(4, 12, 18, seeded(0)), 12), images(3))


# ------------------------------------------------------------------ RandomGrayscale


@pytest.mark.parametrize("channels", [1, 3])
def test_chosen_images_become_grey_as_torchvisions_do(channels: int) -> None:
    x_NCHW = images(channels)
    chosen = torch.tensor([True, False, True, False])
    found_NCHW = RandomGrayscale().apply(x_NCHW, {"grey": chosen}, 12)
    assert found_NCHW.shape == x_NCHW.shape
    grey_NCHW = torchvisions.rgb_to_grayscale(x_NCHW, num_output_channels=channels)
    for i in range(4):
        close(found_NCHW[i], grey_NCHW[i] if chosen[i] else x_NCHW[i])


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_share_p_of_the_images_becomes_grey(p: float) -> None:
    grey_N = RandomGrayscale(p).draw(2000, 8, 8, seeded(0))["grey"]
    assert abs(grey_N.float().mean() - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


def test_uint8_images_are_read_as_levels_of_255() -> None:
    x_NCHW = torch.randint(256, (5, 3, 4, 4), generator=seeded(0), dtype=torch.uint8)
    for transform in (RandomGrayscale(0.5), ColorJitter(p=0.5)):
        parameters = transform.draw(5, 4, 4, seeded(0))
        close(transform.apply(x_NCHW, parameters, 4), transform.apply(x_NCHW / 255, parameters, 4))


# ------------------------------------------------------------------ Solarize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threshold", [0, 100, 128, 255])
def test_chosen_images_are_solarized_as_torchvisions_are(channels: int, threshold: int) -> None:
    x_NCHW = torch.randint(256, (4, channels, 9, 9), generator=seeded(0), dtype=torch.uint8)
    chosen = torch.tensor([True, False, True, True])
    found_NCHW = Solarize(threshold).apply(x_NCHW, {"solarize": chosen}, 9)
    expected_NCHW = torchvisions.solarize(x_NCHW, threshold)
    expected_NCHW[1] = x_NCHW[1]
    torch.testing.assert_close(found_NCHW * 255, expected_NCHW.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_share_p_of_the_images_is_solarized(p: float) -> None:
    chosen_N = Solarize(p=p).draw(2000, 8, 8, seeded(0))["solarize"]
    assert abs(chosen_N.float().mean() - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("kind", "keys", "name"),
    [
        (ColorJitter, {"brightness": -0.1}, "brightness"),
        (ColorJitter, {"contrast": "strong"}, "contrast"),
        (ColorJitter, {"saturation": float("inf")}, "saturation"),
        (ColorJitter, {"hue": 0.6}, "hue"),
        (ColorJitter, {"hue": -0.1}, "hue"),
        (ColorJitter, {"hue": [0, 0.1]}, "hue"),
        (ColorJitter, {"p": 1.01}, "p"),
        (ColorJitter, {"p": True}, "p"),
        (RandomGrayscale, {"p": -0.01}, "p"),
        (RandomGrayscale, {"p": None}, "p"),
        (Solarize, {"threshold": 256}, "threshold"),
        (Solarize, {"threshold": -1}, "threshold"),
    ],
)
def test_a_setting_out_of_range_is_named(kind: Any, keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .*got "):
        kind(**keys)
