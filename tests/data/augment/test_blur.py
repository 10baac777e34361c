"""Gaussian blur, against torchvision's. Sharpness is tested with the policies.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvisions

from tcl_train.data.augment import GaussianBlur

few = settings(max_examples=40)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(0))


def all_of(sigma_N: Tensor) -> dict[str, Tensor]:
    return {"sigma": sigma_N, "blur": torch.ones(len(sigma_N), dtype=torch.bool)}


@few
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(6, 20),
    width=st.integers(6, 20),
    kernel=st.sampled_from([1, 3, 5, 11]),
    sigmas=st.lists(st.floats(0.1, 5), min_size=1, max_size=4),
)
def test_each_image_is_blurred_as_by_torchvision_with_its_own_width(
    channels: int, height: int, width: int, kernel: int, sigmas: list[float]
) -> None:
    x_NCHW = noise(len(sigmas), channels, height, width)
    found_NCHW = GaussianBlur(kernel=kernel).apply(x_NCHW, all_of(torch.tensor(sigmas)), 8)
    for x_CHW, sigma, found_CHW in zip(x_NCHW, sigmas, found_NCHW, strict=True):
        expected_CHW = torchvisions.gaussian_blur(x_CHW, [kernel, kernel], [sigma, sigma])
        torch.testing.assert_close(found_CHW, expected_CHW, rtol=0, atol=1e-5)


def test_uint8_images_are_blurred_to_a_fraction_of_a_level() -> None:
    """torchvision rounds them."""
    x_NCHW = (noise(3, 3, 16, 16) * 255).to(torch.uint8)
    found_NCHW = GaussianBlur(kernel=5).apply(x_NCHW, all_of(torch.full((3,), 1.3)), 16)
    expected_NCHW = torchvisions.gaussian_blur(x_NCHW, [5, 5], [1.3, 1.3])
    torch.testing.assert_close(found_NCHW * 255, expected_NCHW.float(), rtol=0, atol=0.51)


def test_images_that_are_not_chosen_are_left_alone() -> None:
    x_NCHW = noise(3, 3, 9, 9)
    chosen = torch.tensor([False, True, False])
    found_NCHW = GaussianBlur().apply(x_NCHW, {"sigma": torch.ones(3), "blur": chosen}, 9)
    changed = [not torch.equal(a, b) for a, b in zip(found_NCHW, x_NCHW, strict=True)]
    assert changed == chosen.tolist()


@pytest.mark.parametrize(("side", "kernel"), [(8, 3), (32, 3), (100, 11), (224, 23)])
def test_the_kernel_is_a_tenth_of_the_side(side: int, kernel: int) -> None:
    """Simclr's, 23 of 224 pixels; 3 at least."""
    assert 2 * GaussianBlur().radius(side, side) + 1 == kernel


def test_widths_are_uniform_and_p_is_the_share_that_is_blurred() -> None:
    drawn = GaussianBlur(sigma=(0.5, 1.5), p=0.3).draw(3000, 8, 8, seeded(1))
    assert kstest(drawn["sigma"].numpy(), "uniform", (0.5, 1.0)).pvalue > 0.01
    assert abs(drawn["blur"].float().mean() - 0.3) < 0.03


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"sigma": [0, 1]}, r"sigma\[0\]"),
        ({"sigma": 1}, "sigma"),
        ({"kernel": 4}, "kernel"),
        ({"kernel": 0}, "kernel"),
        ({"kernel": "large"}, "kernel"),
        ({"p": 1.5}, "p"),
        ({"p": [0.1, 1.5]}, r"p\[1\]"),
    ],
)
def test_a_setting_out_of_range_is_named(keys: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name}.* must be .*got "):
        GaussianBlur(**keys)


def test_an_image_smaller_than_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 x 5 pixels are too small for a kernel of 11"):
        GaussianBlur(kernel=11).output_size(5, 5, 5)
