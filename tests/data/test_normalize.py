"""Normalisation and its centre crop.

N, B: images; C: channels; H, W: rows and columns; S: side of the output.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tcl_train.data.normalize import Normalize, centre_crop


def images(b: int, c: int, height: int, width: int | None = None) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, (b, c, height, width or height), generator=g, dtype=torch.uint8)


def normalize(c: int, size: int) -> Normalize:
    return Normalize(size=size, mean=(0.45, 0.5, 0.4)[:c], std=(0.2, 0.25, 0.3)[:c])


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_cut_and_normalised_by_channel(c: int, dtype: torch.dtype) -> None:
    x_BCHW = images(4, c, 9, 12)
    found_BCSS = normalize(c, 8)(x_BCHW if dtype == torch.uint8 else x_BCHW / 255)
    mean_C11 = torch.tensor([0.45, 0.5, 0.4][:c], dtype=torch.float64).view(-1, 1, 1)
    std_C11 = torch.tensor([0.2, 0.25, 0.3][:c], dtype=torch.float64).view(-1, 1, 1)
    expected_BCSS = (x_BCHW[:, :, :8, 2:10].double() / 255 - mean_C11) / std_C11
    assert found_BCSS.dtype == torch.float32
    assert found_BCSS.is_contiguous(memory_format=torch.channels_last)
    expected_BCSS = expected_BCSS.float().expand(4, 3, 8, 8)
    torch.testing.assert_close(found_BCSS, expected_BCSS, rtol=1e-5, atol=1e-5)


def test_part_of_a_result_may_be_written() -> None:
    x_BCHW = images(3, 3, 8)
    of_three = normalize(3, 8)
    result_NCSS = of_three.empty(5, torch.device("cpu")).fill_(-9)
    of_three.write(x_BCHW, result_NCSS[1:4])
    assert torch.equal(result_NCSS[1:4], of_three(x_BCHW))
    assert (result_NCSS[[0, 4]] == -9).all()


def test_what_was_normalised_can_be_looked_at() -> None:
    for c in (1, 3):
        x_BCHW = images(3, c, 8)
        assert torch.equal(normalize(c, 8).undo(normalize(c, 8)(x_BCHW)), x_BCHW.expand(3, 3, 8, 8))


def test_floats_are_normalised_as_they_are() -> None:
    x_BCHW = images(3, 3, 8)
    torch.testing.assert_close(normalize(3, 6)(x_BCHW), normalize(3, 6)(x_BCHW / 255))


def test_one_mean_serves_three_channels() -> None:
    """A grey set that is read from image folders has three channels and keeps its recipe's one
    mean."""
    grey = Normalize(size=8, mean=[0.3], std=[0.2])
    three = Normalize(size=8, mean=[0.3] * 3, std=[0.2] * 3)
    x_BCHW = images(3, 1, 8)
    for c in (1, 3):
        assert torch.equal(grey(x_BCHW.expand(3, c, 8, 8)), three(x_BCHW.expand(3, c, 8, 8)))


def test_the_same_may_be_had_with_another_size() -> None:
    x_BCHW, of_eight = images(2, 3, 8), normalize(3, 8)
    assert torch.equal(of_eight.with_size(6)(x_BCHW), normalize(3, 6)(x_BCHW))
    assert of_eight(x_BCHW).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"^size must be .*got 0"):
        of_eight.with_size(0)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (9, 8, 4), (8, 8, 8), (7, 12, 3)])
def test_the_centre_crop_leaves_the_same_on_both_sides_or_one_less(
    height: int, width: int, size: int
) -> None:
    images_NCHW = images(2, 3, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    expected_NCSS = images_NCHW[:, :, top : top + size, left : left + size]
    assert torch.equal(centre_crop(images_NCHW, size), expected_NCSS)
    assert abs((height - size - top) - top) <= 1


@pytest.mark.parametrize(("side", "size"), [(8, 9), (8, 16), (28, 32)])
def test_images_smaller_than_encoders_see_are_refused(side: int, size: int) -> None:
    """Rather than evaluated on a corner."""
    message = f"^images of {side} x {side} pixels have no crop of {size}$"
    with pytest.raises(ValueError, match=message):
        normalize(1, size)(images(2, 1, side))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"mean must have 1 or 3 values, .*got \[0.5, 0.5\]"),
        ({"mean": [float("nan")] * 3}, "mean must be .*got nan"),
        ({"std": [0.2, 0.2]}, r"std must have 1 or 3 values, .*got \[0.2, 0.2\]"),
        ({"std": [0.2, 0.0, 0.2]}, "std must be .*got 0"),
        ({"std": [-0.2] * 3}, "std must be .*got -0.2"),
        ({"size": 0}, "size must be .*got 0"),
    ],
)
def test_a_setting_out_of_range_is_named(keys: dict[str, Any], message: str) -> None:
    usual = {"size": 8, "mean": [0.5] * 3, "std": [0.2] * 3}
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        Normalize(**{**usual, **keys})
