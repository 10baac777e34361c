"""Mean and standard deviation of the pixels, against numpy.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcl_train.data import statistics
from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.data.statistics import channel_statistics

steady = settings(max_examples=60)


def noise(count: int, channels: int, side: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def check(images_NCHW: np.ndarray, rtol: float = 1e-6) -> None:
    mean, std = channel_statistics(ArrayImages(torch.from_numpy(images_NCHW)))
    values = images_NCHW / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), rtol=rtol)


@steady
@given(
    count=st.integers(1, 20),
    channels=st.sampled_from([1, 3]),
    side=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_mean_and_std_are_numpys(count: int, channels: int, side: int, seed: int) -> None:
    check(noise(count, channels, side, seed))


# Images are read in chunks of 500.
@pytest.mark.parametrize("count", [499, 500, 501, 1000, 1001])
def test_no_image_is_lost_or_counted_twice_between_chunks(count: int) -> None:
    check(noise(count, 3, 2))


def test_each_of_as_many_images_as_are_sampled_at_most_counts_once() -> None:
    check(noise(statistics.LARGEST_SAMPLE, 1, 1))


def test_of_more_images_an_even_sample_from_the_first_to_the_last_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "LARGEST_SAMPLE", 5)
    images_NCHW = torch.arange(81, dtype=torch.uint8).view(81, 1, 1, 1)
    mean, std = channel_statistics(ArrayImages(images_NCHW))
    sample = np.array([0, 20, 40, 60, 80]) / 255
    np.testing.assert_allclose(mean, [sample.mean()], rtol=1e-12)
    np.testing.assert_allclose(std, [sample.std()], rtol=1e-12)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_channel_that_never_varies_gets_a_std_of_1(value: int) -> None:
    images_NCHW = noise(30, 3, 4)
    images_NCHW[:, 1] = value
    mean, std = channel_statistics(ArrayImages(torch.from_numpy(images_NCHW)))
    assert mean[1] == pytest.approx(value / 255)
    assert std[1] == 1
    np.testing.assert_allclose(std[0], (images_NCHW[:, 0] / 255).std(), rtol=1e-6)


def test_the_least_variation_is_not_taken_for_none() -> None:
    """One pixel of a hundred thousand, one level up."""
    images_NCHW = np.full((10, 1, 100, 100), 200, np.uint8)
    images_NCHW[3, 0, 5, 5] += 1
    check(images_NCHW, rtol=1e-4)


def test_streamed_images_have_the_same_statistics(tmp_path: Path) -> None:
    images_NCHW = noise(6, 3, 5)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image_CHW in zip(paths, images_NCHW, strict=True):
        Image.fromarray(image_CHW.transpose(1, 2, 0)).save(path)
    assert channel_statistics(FileImages(paths, 5, workers=0)) == channel_statistics(
        ArrayImages(torch.from_numpy(images_NCHW))
    )


def test_the_statistics_are_tuples_of_plain_numbers() -> None:
    """They go into JSON files and checkpoints."""
    for values in channel_statistics(ArrayImages(torch.from_numpy(noise(3, 3, 2)))):
        assert type(values) is tuple
        assert [type(value) for value in values] == [float] * 3
