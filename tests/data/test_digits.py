"""The embedded digits.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tcl_train.data.dataset import DataSet, ReadOptions
from tcl_train.data.digits import FILE, digits
from tcl_train.errors import RequestError

Options = Callable[..., ReadOptions]
AllImages = Callable[..., torch.Tensor]


@pytest.fixture
def data(read_options: Options) -> DataSet:
    return digits(options=read_options())


def test_a_fifth_of_the_1797_images_is_the_test_split(data: DataSet) -> None:
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.pretrain is data.train
    assert data.classes == tuple("0123456789")
    assert data.image_size == 8


def test_together_the_splits_are_scikit_learns_images_with_their_labels(
    data: DataSet, all_images: AllImages
) -> None:
    bunch = load_digits()
    expected = sorted(
        (label, np.round(image * 255 / 16).astype(np.uint8).tobytes())
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    found = []
    for split in (data.train, data.test):
        images_NCHW = all_images(split.images)
        assert images_NCHW.dtype == torch.uint8
        assert images_NCHW.shape[1:] == (1, 8, 8)
        assert split.labels_N.dtype == torch.int64
        found += [
            (label, image_CHW.numpy().tobytes())
            for image_CHW, label in zip(images_NCHW, split.labels_N.tolist(), strict=True)
        ]
    assert sorted(found) == expected


def test_the_file_is_what_the_script_makes_of_scikit_learns_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    make_digits = importlib.import_module("make_digits")
    monkeypatch.setattr(make_digits, "TARGET", tmp_path / "digits.npz")
    make_digits.main()
    with np.load(tmp_path / "digits.npz") as made, np.load(FILE) as stored:
        assert made.files == stored.files
        for name in made.files:
            assert made[name].dtype == stored[name].dtype
            assert np.array_equal(made[name], stored[name])


def test_each_class_has_the_same_share_in_both_splits(data: DataSet) -> None:
    train_C = data.train.labels_N.bincount(minlength=10)
    test_C = data.test.labels_N.bincount(minlength=10)
    share_C = test_C / (train_C + test_C)
    assert (share_C - 360 / 1797).abs().max() < 0.01


def test_the_split_is_the_same_every_time_whatever_the_random_states(
    data: DataSet, read_options: Options, all_images: AllImages
) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    again = digits(options=read_options())
    assert torch.equal(all_images(again.test.images), all_images(data.test.images))
    assert torch.equal(again.train.labels_N, data.train.labels_N)


def test_mean_and_std_are_those_of_the_training_images(
    data: DataSet, all_images: AllImages
) -> None:
    values = all_images(data.train.images).numpy() / 255
    np.testing.assert_allclose(data.mean, [values.mean()], rtol=1e-10)
    np.testing.assert_allclose(data.std, [values.std()], rtol=1e-10)


def test_mean_and_std_that_are_given_are_kept(read_options: Options) -> None:
    data = digits(options=read_options(), mean=[0.25], std=[0.5])
    assert (data.mean, data.std) == ((0.25,), (0.5,))


def test_a_mean_that_is_given_alone_is_not_thrown_away(
    data: DataSet, read_options: Options
) -> None:
    given = digits(options=read_options(), mean=[0.25])
    assert given.mean == (0.25,)
    assert given.std == data.std


@pytest.mark.parametrize("image_size", [0, -1, 7.5, "large"])
def test_an_image_size_out_of_range_is_named(read_options: Options, image_size: Any) -> None:
    with pytest.raises((ValueError, TypeError, RequestError), match="image_size"):
        digits(options=read_options(), image_size=image_size)


def test_images_smaller_than_the_image_size_are_scaled_or_refused(
    read_options: Options, all_images: AllImages
) -> None:
    """Never cut to whatever is there: an encoder would be trained on one size and tested on
    another."""
    try:
        data = digits(options=read_options(), image_size=16)
    except (ValueError, RequestError) as error:
        said = str(error)
    else:
        said = "image_size"
        assert all_images(data.test.images).shape[2] >= 16
    assert "image_size" in said


def test_nothing_is_written(tmp_path: Path, read_options: Options) -> None:
    digits(options=read_options())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", [False, True])
def test_image_folders_are_read_where_root_holds_some(
    tmp_path: Path,
    save_folders: Callable[..., object],
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
    home: bool,
) -> None:
    save_folders(tmp_path / "own", {"train": {"a": 2, "b": 3}, "val": {"a": 1, "b": 1}})
    monkeypatch.setenv("HOME", str(tmp_path))
    data = digits("~/own" if home else str(tmp_path / "own"), options=read_options())
    assert data.classes == ("a", "b")
    assert (len(data.train), len(data.test)) == (5, 2)
    assert data.image_size == 8


def test_what_is_wrong_with_image_folders_is_said(
    tmp_path: Path, save_folders: Callable[..., object], read_options: Options
) -> None:
    save_folders(tmp_path, {"train": {"a": 2}, "val": {"b": 1}})
    with pytest.raises(RequestError, match="which the training split lacks"):
        digits(str(tmp_path), options=read_options())
