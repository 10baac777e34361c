"""Corruptions of images: each kind does what its name says, more so at each severity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcl_train.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedImages, corrupted
from tcl_train.data.corruptions.blur import mean_of_moved
from tcl_train.data.corruptions.draws import Draws
from tcl_train.data.corruptions.fields import cloudy, moved, random_field, smooth
from tcl_train.data.images import ArrayImages

KINDS = list(CORRUPTIONS)
CPU = torch.device("cpu")
DRAWN = set(KINDS) - {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
}


def pictures(count: int = 6, size: int = 32, channels: int = 3) -> Tensor:
    """Clouds with a bright square: detail at every size, and edges."""
    draws = Draws(7, "pictures", range(count * channels))
    like_NCHW = torch.zeros(1, channels, size, size)
    field_NHW = random_field(draws, like_NCHW, cloudy(1.2))
    x_NCHW = (field_NHW * 40 + 110).clamp(0, 255).to(torch.uint8)
    x_NCHW = x_NCHW.view(count, channels, size, size)
    x_NCHW[:, :, size // 4 : size // 2, size // 4 : size // 2] //= 3
    return x_NCHW


def corrupt(x_NCHW: Tensor, kind: str, severity: int, seed: int = 1) -> Tensor:
    return corrupted(x_NCHW, kind, severity, seed=seed, places=range(len(x_NCHW)))


def distance(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().mean().item()


def test_there_are_the_fifteen_kinds_of_the_paper() -> None:
    assert len(KINDS) == 15
    assert all(len(corruption.strengths) == len(SEVERITIES) for corruption in CORRUPTIONS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_further_from_the_clean_image_than_the_one_before(kind: str) -> None:
    x_NCHW = pictures()
    before = x_NCHW.clone()
    distances = [distance(corrupt(x_NCHW, kind, severity), x_NCHW) for severity in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(set(distances)), distances
    assert torch.equal(x_NCHW, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (9, 3), (3, 3), (1, 1)])
def test_images_of_any_size_keep_shape_and_type(kind: str, size: int, channels: int) -> None:
    x_NCHW = torch.randint(256, (2, channels, size, size), dtype=torch.uint8)
    x_NCHW = x_NCHW[:, :, :, : max(1, size - 1)]  # nor need they be square
    for severity in (1, 5):
        y_NCHW = corrupt(x_NCHW, kind, severity)
        assert (y_NCHW.dtype, y_NCHW.shape) == (torch.uint8, x_NCHW.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_follow_from_seed_and_place_whatever_the_batch(kind: str) -> None:
    x_NCHW = pictures(4, size=16)
    together = corrupt(x_NCHW, kind, 3)
    assert torch.equal(corrupt(x_NCHW, kind, 3), together)
    alone = corrupted(x_NCHW[2:3], kind, 3, seed=1, places=[2])
    assert (alone.int() - together[2:3].int()).abs().max() <= 1  # sums in another order
    same_picture = x_NCHW[:1].expand(2, -1, -1, -1)
    first, second = corrupt(same_picture, kind, 3)
    assert torch.equal(first, second) == (kind not in DRAWN)
    assert torch.equal(corrupt(x_NCHW, kind, 3, seed=2), together) == (kind not in DRAWN)


LENGTHS = (
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "frost", "fog"),
    "elastic_transform",
)


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_larger_picture_of_the_same_is_corrupted_alike(kind: str) -> None:
    """Strengths are shares of the side."""
    small = pictures(4, size=32)
    large = torch.nn.functional.interpolate(small.float(), scale_factor=3, mode="bilinear")
    large = large.to(torch.uint8)
    of_small = distance(corrupt(small, kind, 4), small)
    of_large = distance(corrupt(large, kind, 4), large)
    assert 0.5 < of_large / of_small < 2  # in pixels as before it would be a third


def test_brightness_is_added_and_contrast_and_detail_are_taken() -> None:
    x_NCHW = pictures()
    assert (corrupt(x_NCHW, "brightness", 2) >= x_NCHW).all()
    means = [corrupt(x_NCHW, "brightness", s).float().mean() for s in SEVERITIES]
    assert means == sorted(means)
    for kind in ("contrast", "fog"):
        deviations = [corrupt(x_NCHW, kind, s).float().std((2, 3)).mean() for s in SEVERITIES]
        assert deviations == sorted(deviations, reverse=True)
    for kind in ("defocus_blur", "motion_blur", "zoom_blur"):
        steps = [corrupt(x_NCHW, kind, s).float().diff(dim=3).square().mean() for s in (1, 5)]
        assert steps[1] < steps[0] < x_NCHW.float().diff(dim=3).square().mean()


def test_brightness_keeps_the_hue() -> None:
    x_NCHW = torch.tensor([40, 80, 120], dtype=torch.uint8).view(1, 3, 1, 1)
    level_C = corrupt(x_NCHW, "brightness", 1).flatten().tolist()
    value = 120 + 25.5
    assert level_C == pytest.approx([value / 3, value * 2 / 3, value], abs=1)


def test_noise_has_the_strength_that_is_stated() -> None:
    grey = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    gaussian = corrupt(grey, "gaussian_noise", 1).float() / 255
    assert gaussian.std().item() == pytest.approx(0.08, rel=0.05)
    shot = corrupt(grey, "shot_noise", 2).float() / 255
    assert shot.mean().item() == pytest.approx(128 / 255, rel=0.02)
    assert shot.var().item() == pytest.approx(128 / 255 / 25, rel=0.1)
    impulse = corrupt(grey, "impulse_noise", 5)
    assert (impulse != 128).float().mean().item() == pytest.approx(0.27, rel=0.05)
    assert set(impulse.unique().tolist()) == {0, 128, 255}


def test_a_blurred_constant_stays_as_it_is() -> None:
    grey = torch.full((2, 3, 12, 12), 77, dtype=torch.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"):
        assert torch.equal(corrupt(grey, kind, 5), grey), kind


def test_the_mean_of_moved_images_is_their_mean() -> None:
    x_NCHW = torch.rand(2, 3, 10, 12)
    down_NP = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.5, 1.0]])
    right_NP = torch.tensor([[1.1, 0.0, -0.4], [0.0, -0.5, 2.0]])
    each = [
        moved(x_NCHW, d_N[:, None, None].expand(2, 10, 12), r_N[:, None, None].expand(2, 10, 12))
        for d_N, r_N in zip(down_NP.unbind(1), right_NP.unbind(1), strict=True)
    ]
    # The kernel moves the other way: what comes from below goes up.
    found = mean_of_moved(x_NCHW, down_NP, right_NP)
    torch.testing.assert_close(found, torch.stack(each).mean(0), atol=1e-5, rtol=1e-4)


def test_a_field_has_mean_0_and_deviation_1_and_varies_over_its_length() -> None:
    like_NCHW = torch.zeros(3, 1, 64, 64)
    steps = []
    for length in (0.05, 0.2):
        field_NHW = random_field(Draws(1, "field", range(3)), like_NCHW, smooth(length))
        torch.testing.assert_close(field_NHW.mean((1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(field_NHW.std((1, 2), correction=0), torch.ones(3))
        steps.append(field_NHW.diff(dim=2).square().mean().item())
    assert steps[1] < steps[0] / 4


def test_images_of_a_split_are_corrupted_as_they_are_read() -> None:
    x_NCHW = pictures(5, size=16)
    images = CorruptedImages(ArrayImages(x_NCHW), "snow", 2, seed=1)
    assert len(images) == 5
    expected = corrupt(x_NCHW, "snow", 2)
    read = torch.cat([*images.batches([torch.arange(3), torch.tensor([3, 4])], CPU)])
    assert torch.equal(read, expected)
    chosen = images.chosen(torch.tensor([4, 1]))
    (batch,) = chosen.batches([torch.arange(2)], CPU)
    assert torch.equal(batch, expected[[4, 1]])
    assert chosen.digest() != images.digest() != ArrayImages(x_NCHW).digest()
