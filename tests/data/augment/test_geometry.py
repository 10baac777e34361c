"""Crops and flips, against torchvision and against slices.

N, B: images; C: channels; H, W: rows and columns; S: side of the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as torchvisions

from tcl_train.data.augment import HorizontalFlip, PadCrop, RandomResizedCrop

few = settings(max_examples=80)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)


BOX = ("top", "left", "height", "width")


def boxes(*tlhw: Sequence[int]) -> dict[str, Tensor]:
    """Parameters of RandomResizedCrop for boxes (top, left, height, width)."""
    return dict(zip(BOX, torch.tensor(tlhw).float().unbind(1), strict=True))


def torchvisions_crop(image_CHW: Tensor, box: Sequence[int], size: int) -> Tensor:
    return torchvisions.resized_crop(
        image_CHW, *box, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True
    )


# ------------------------------------------------------------------ the pixels of resized crops


@st.composite
def crops(draw: st.DrawFn) -> tuple[Tensor, list[tuple[int, int, int, int]], int]:
    """A batch of noise, a box in each image, and the side of the output."""
    n, c = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    h, w = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    tlhw = []
    for _ in range(n):
        height, width = draw(st.integers(1, h)), draw(st.integers(1, w))
        top, left = draw(st.integers(0, h - height)), draw(st.integers(0, w - width))
        tlhw.append((top, left, height, width))
    size = draw(st.integers(1, 40))
    return noise(n, c, h, w, seed=draw(st.integers(0, 2**32))), tlhw, size


@few
@given(crops())
def test_resized_crops_are_torchvisions(
    case: tuple[Tensor, list[tuple[int, int, int, int]], int],
) -> None:
    images_NCHW, tlhw, size = case
    found_NCSS = RandomResizedCrop().apply(images_NCHW, boxes(*tlhw), size)
    assert found_NCSS.dtype == torch.float32
    for image_CHW, box, found_CSS in zip(images_NCHW, tlhw, found_NCSS, strict=True):
        expected_CSS = torchvisions_crop(image_CHW.float() / 255, box, size)
        torch.testing.assert_close(found_CSS, expected_CSS, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "size"), [(32, 32), (32, 40), (64, 24)])
def test_resized_crops_are_torchvisions_on_uint8_to_a_level(side: int, size: int) -> None:
    """torchvision rounds there, in between as well. Its kernel fails on boxes a pixel wide, hence
    not in the test above."""
    images_NCHW = noise(100, 3, side, side)
    crop = RandomResizedCrop()
    parameters = crop.draw(100, side, side, seeded(2))
    tlhw = torch.stack([parameters[name] for name in BOX], 1).int().tolist()
    found_NCSS = crop.apply(images_NCHW, parameters, size) * 255
    expected_NCSS = torch.stack(
        [
            torchvisions_crop(image_CHW, box, size)
            for image_CHW, box in zip(images_NCHW, tlhw, strict=True)
        ]
    )
    torch.testing.assert_close(found_NCSS, expected_NCSS.float(), rtol=0, atol=1.01)


@pytest.mark.parametrize(
    "box",
    [
        (3, 5, 8, 8),  # grows
        (0, 0, 64, 48),  # shrinks
        (10, 0, 20, 48),  # grows across, shrinks along
        (0, 40, 64, 8),  # a strip at the edge
        (63, 47, 1, 1),  # the last pixel
    ],
)
@pytest.mark.parametrize("size", [8, 32, 33])
def test_typical_crops_are_torchvisions(box: tuple[int, int, int, int], size: int) -> None:
    image_CHW = noise(3, 64, 48)
    found_NCSS = RandomResizedCrop().apply(image_CHW[None], boxes(box), size)
    expected_CSS = torchvisions_crop(image_CHW.float() / 255, box, size)
    torch.testing.assert_close(found_NCSS[0], expected_CSS, rtol=0, atol=1e-5)


def test_a_box_of_the_output_size_is_cut_out_unchanged() -> None:
    images_NCHW = noise(2, 3, 20, 30)
    found_NCSS = RandomResizedCrop().apply(images_NCHW, boxes((2, 3, 9, 9), (11, 21, 9, 9)), 9)
    expected_NCSS = torch.stack([images_NCHW[0, :, 2:11, 3:12], images_NCHW[1, :, 11:, 21:]])
    torch.testing.assert_close(found_NCSS * 255, expected_NCSS.float(), rtol=0, atol=1e-3)


def test_pixels_outside_the_box_leave_no_trace() -> None:
    images_NCHW = noise(1, 1, 30, 30)
    elsewhere_NCHW = noise(1, 1, 30, 30, seed=1)
    elsewhere_NCHW[:, :, 4:24, 6:26] = images_NCHW[:, :, 4:24, 6:26]
    crop, box = RandomResizedCrop(), boxes((4, 6, 20, 20))
    for size in (7, 33):
        assert torch.equal(
            crop.apply(images_NCHW, box, size), crop.apply(elsewhere_NCHW, box, size)
        )


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_a_plain_image_keeps_its_value(value: int) -> None:
    images_NCHW = torch.full((50, 3, 23, 23), value, dtype=torch.uint8)
    crop = RandomResizedCrop(scale=(0.01, 1))
    found_NCSS = crop.apply(images_NCHW, crop.draw(50, 23, 23, seeded(0)), 16)
    torch.testing.assert_close(found_NCSS, torch.full_like(found_NCSS, value / 255))


def test_floats_are_cropped_as_they_are() -> None:
    images_NCHW = noise(4, 3, 16, 16)
    crop = RandomResizedCrop()
    parameters = crop.draw(4, 16, 16, seeded(0))
    torch.testing.assert_close(
        crop.apply(images_NCHW, parameters, 8), crop.apply(images_NCHW.float() / 255, parameters, 8)
    )


# ------------------------------------------------------------------ where resized crops fall

Box = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def our_boxes(count: int, height: int, width: int, **keys: Any) -> Box:
    p = RandomResizedCrop(**keys).draw(count, height, width, seeded(0))
    return tuple(p[name].double().numpy() for name in BOX)


def torchvisions_boxes(
    count: int,
    height: int,
    width: int,
    scale: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> Box:
    image = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [
            transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio))
            for _ in range(count)
        ]
    return tuple(np.array(drawn).T)


def p_values(ours: Box, theirs: Box, height: int, width: int) -> list[float]:
    """Of a two-sample test on each aspect of the boxes."""

    def aspects(box: Box) -> list[np.ndarray]:
        top, left, h, w = box
        room_above, room_beside = height - h, width - w
        return [
            h,
            w,
            h * w,
            w / h,
            top,
            left,
            top[room_above > 0] / room_above[room_above > 0],
            left[room_beside > 0] / room_beside[room_beside > 0],
        ]

    return [ks_2samp(a, b).pvalue for a, b in zip(aspects(ours), aspects(theirs), strict=True)]


COUNT = 3000


@pytest.mark.parametrize(
    ("height", "width", "keys"),
    [
        (32, 32, {}),
        (32, 32, {"scale": (0.5, 1.0)}),
        (224, 224, {"scale": (0.08, 1.0)}),
        (24, 40, {}),
        (30, 30, {"scale": (0.1, 0.4), "ratio": (0.3, 2.0)}),
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    height: int, width: int, keys: dict[str, Any]
) -> None:
    ours = our_boxes(COUNT, height, width, **keys)
    theirs = torchvisions_boxes(COUNT, height, width, **keys)
    assert min(p_values(ours, theirs, height, width)) > 0.005  # of eight tests


def test_the_test_of_distributions_tells_slightly_other_ones_apart() -> None:
    theirs = torchvisions_boxes(COUNT, 32, 32)
    scale = p_values(our_boxes(COUNT, 32, 32, scale=(0.25, 1)), theirs, 32, 32)
    ratio = p_values(our_boxes(COUNT, 32, 32, ratio=(0.8, 1.25)), theirs, 32, 32)
    assert scale[2] < 1e-4  # the area
    assert ratio[3] < 1e-4  # the side ratio


@few
@given(
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    seed=st.integers(0, 2**62),
)
def test_every_box_lies_in_the_image(
    height: int, width: int, scale: list[float], ratio: list[float], seed: int
) -> None:
    p = RandomResizedCrop(scale, ratio).draw(64, height, width, seeded(seed))
    for start, length, extent in (("top", "height", height), ("left", "width", width)):
        assert (p[start] == p[start].round()).all()
        assert (p[length] == p[length].round()).all()
        assert (p[start] >= 0).all()
        assert (p[length] >= 1).all()
        assert (p[start] + p[length] <= extent).all()


def test_the_whole_image_is_taken_where_no_box_fits() -> None:
    """All of the area with another side ratio than the image's."""
    p = RandomResizedCrop(scale=(1, 1), ratio=(2, 3)).draw(20, 12, 12, seeded(0))
    assert p["height"].tolist() == p["width"].tolist() == [12] * 20
    assert p["top"].tolist() == p["left"].tolist() == [0] * 20


def test_the_share_and_the_side_ratio_stay_in_their_intervals() -> None:
    """Up to rounding to whole pixels, hence a large image."""
    p = RandomResizedCrop((0.3, 0.6), (0.5, 1.5)).draw(2000, 1000, 1000, seeded(0))
    share_N = p["height"] * p["width"] / 1e6
    ratio_N = p["width"] / p["height"]
    assert 0.299 < share_N.min() < 0.305
    assert 0.595 < share_N.max() < 0.601
    assert 0.498 < ratio_N.min() < 0.51
    assert 1.47 < ratio_N.max() < 1.505
    # log-uniform: as many below the geometric mean of the ends as above
    assert abs((ratio_N < math.sqrt(0.5 * 1.5)).float().mean() - 0.5) < 0.04


# ------------------------------------------------------------------ padding and crop


@pytest.mark.parametrize(("height", "width", "size"), [(6, 6, 6), (6, 8, 6), (9, 7, 5)])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_pad_crop_is_a_slice_of_the_padded_image_at_any_offset(
    height: int, width: int, size: int, padding: int
) -> None:
    image_CHW = noise(3, height, width)
    padded_CHW = np.pad(image_CHW.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    room = (height + 2 * padding - size + 1, width + 2 * padding - size + 1)
    offsets = [(top, left) for top in range(room[0]) for left in range(room[1])]
    # The parameters are shares of the room; these fall in the middle of each offset's part.
    share_N2 = (torch.tensor(offsets) + 0.5) / torch.tensor(room)
    found_NCSS = PadCrop(padding).apply(
        image_CHW.expand(len(offsets), -1, -1, -1),
        {"top": share_N2[:, 0], "left": share_N2[:, 1]},
        size,
    )
    assert found_NCSS.dtype == torch.uint8
    for (top, left), found_CSS in zip(offsets, found_NCSS, strict=True):
        np.testing.assert_array_equal(
            found_CSS, padded_CHW[:, top : top + size, left : left + size]
        )


def test_all_offsets_of_a_pad_crop_occur_and_equally_often() -> None:
    """Chi-squared over 81 offsets; its 99.9 % quantile with 80 degrees is 124.8."""
    count, side, padding = 8100, 5, 4
    # Every pixel names its place, so that a crop tells its offset, even from a corner.
    image_CHW = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, side, side)
    crop = PadCrop(padding)
    images_NCHW = image_CHW.expand(count, -1, -1, -1)
    found_NCSS = crop.apply(images_NCHW, crop.draw(count, side, side, seeded(0)), side)
    padded_HW = np.pad(image_CHW[0].numpy(), padding)
    names = {
        padded_HW[top : top + side, left : left + side].tobytes(): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    assert len(names) == 81
    counts = dict.fromkeys(names.values(), 0)
    for found_CSS in found_NCSS:
        counts[names[found_CSS.numpy().tobytes()]] += 1
    assert min(counts.values()) > 0
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 124.8


def test_a_pad_crop_keeps_floats() -> None:
    images_NCHW = torch.rand(3, 1, 6, 6, generator=seeded(1))
    crop = PadCrop(0)
    assert torch.equal(crop.apply(images_NCHW, crop.draw(3, 6, 6, seeded(0)), 6), images_NCHW)


def test_a_pad_crop_that_finds_no_room_says_so() -> None:
    """An image of 8 pixels with 4 on each side has no crop of 20."""
    crop = PadCrop(4)
    with pytest.raises(ValueError, match=r"20.*16|16.*20|20.*8|8.*20"):
        crop.apply(noise(3, 1, 8, 8), crop.draw(3, 8, 8, seeded(0)), 20)


# ------------------------------------------------------------------ flips


def test_chosen_images_are_mirrored_and_the_others_kept() -> None:
    images_NCHW = noise(3, 3, 4, 5)
    flip = torch.tensor([True, False, True])
    found_NCHW = HorizontalFlip().apply(images_NCHW, {"flip": flip}, 4)
    assert torch.equal(found_NCHW[1], images_NCHW[1])
    for i in (0, 2):
        assert torch.equal(found_NCHW[i], torchvisions.horizontal_flip(images_NCHW[i]))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_images_are_mirrored_with_probability_p(p: float) -> None:
    flip_N = HorizontalFlip(p).draw(2000, 8, 8, seeded(0))["flip"]
    assert abs(flip_N.float().mean() - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("kind", "keys", "name"),
    [
        (RandomResizedCrop, {"scale": [0, 1]}, r"scale\[0\]"),
        (RandomResizedCrop, {"scale": [0.2, 1.5]}, r"scale\[1\]"),
        (RandomResizedCrop, {"scale": [0.8, 0.2]}, r"scale\[1\]"),
        (RandomResizedCrop, {"scale": 0.5}, "scale"),
        (RandomResizedCrop, {"scale": [0.5]}, "scale"),
        (RandomResizedCrop, {"scale": [0.1, 0.2, 0.3]}, "scale"),
        (RandomResizedCrop, {"scale": ["a", 1]}, r"scale\[0\]"),
        (RandomResizedCrop, {"scale": [float("nan"), 1]}, r"scale\[0\]"),
        (RandomResizedCrop, {"ratio": [0, 1]}, r"ratio\[0\]"),
        (RandomResizedCrop, {"ratio": [2, 1]}, r"ratio\[1\]"),
        (RandomResizedCrop, {"ratio": None}, "ratio"),
        (PadCrop, {"padding": -1}, "padding"),
        (PadCrop, {"padding": 1.5}, "padding"),
        (PadCrop, {"padding": True}, "padding"),
        (HorizontalFlip, {"p": 1.1}, "p"),
        (HorizontalFlip, {"p": -0.1}, "p"),
        (HorizontalFlip, {"p": "half"}, "p"),
    ],
)
def test_a_setting_out_of_range_is_named(kind: Any, keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be .*got "):
        kind(**keys)
