"""Folders of images: which files are read, with which labels, at which size, and the cache.

N: images; C: channels; H, W: rows and columns.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from tcl_train.cli.choices import config_dir
from tcl_train.data import decode as decode_module
from tcl_train.data import folder
from tcl_train.data.dataset import DataSet, ReadOptions, difference
from tcl_train.data.folder import image_folder
from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.errors import RequestError

Options = Callable[..., ReadOptions]
SaveFolders = Callable[..., dict[str, np.ndarray]]
SaveNoise = Callable[..., np.ndarray]
AllImages = Callable[[Any], torch.Tensor]

TWO_CLASSES = {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 2}}
steady = settings(max_examples=30)


def labels(data: DataSet, split: str) -> list[int]:
    labels_N = getattr(data, split).labels_N
    assert labels_N.dtype == torch.int64
    return labels_N.tolist()


def cut_short(path: Path) -> None:
    """Leaves the header of an image file and half of its pixels."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# ------------------------------------------------------------------ layouts and labels


@pytest.mark.parametrize("workers", [0, 2, 70])
def test_every_image_of_many_is_read_whatever_the_number_of_threads(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    workers: int,
) -> None:
    save_folders(tmp_path, {"train": {"cat": 60, "dog": 7}, "test": {"cat": 1, "dog": 1}})
    options = read_options(workers=workers, on_damaged="skip")
    files = sorted((tmp_path / "train").rglob("*.*"))
    pixels = np.stack([decode_module.decode(path, 6) for path in files])
    data = image_folder(str(tmp_path), options=options)
    np.testing.assert_array_equal(all_images(data.train.images), pixels)
    damaged = (0, 31, 59)
    for place in damaged:
        cut_short(files[place])
    data = image_folder(str(tmp_path), options=options)
    whole = np.delete(pixels, damaged, axis=0)
    np.testing.assert_array_equal(all_images(data.train.images), whole)
    assert len(data.left_out) == 3


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_train_and_test_folders_become_labelled_splits(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    test_name: str,
) -> None:
    splits = {"train": {"cat": 3, "dog": 2}, test_name: {"cat": 1, "dog": 2}}
    pixels = save_folders(tmp_path, splits)
    data = image_folder(str(tmp_path), options=read_options())
    assert data.classes == ("cat", "dog")
    assert labels(data, "train") == [0, 0, 0, 1, 1]
    assert labels(data, "test") == [0, 1, 1]
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    np.testing.assert_array_equal(all_images(data.test.images), pixels[test_name])
    assert data.pretrain is data.train
    assert data.image_size == 6


def test_test_is_preferred_to_val(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options, all_images: AllImages
) -> None:
    pixels = save_folders(tmp_path, {**TWO_CLASSES, "val": {"cat": 5, "dog": 5}})
    data = image_folder(str(tmp_path), options=read_options())
    np.testing.assert_array_equal(all_images(data.test.images), pixels["test"])


def test_labels_follow_the_class_names_where_the_test_split_has_fewer_classes(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, {"train": {"ant": 1, "bee": 2, "cat": 1}, "test": {"cat": 2, "ant": 1}})
    data = image_folder(str(tmp_path), options=read_options())
    assert data.classes == ("ant", "bee", "cat")
    assert labels(data, "train") == [0, 1, 1, 2]
    assert labels(data, "test") == [0, 2, 2]


def test_a_class_that_training_lacks_is_named(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, {"train": {"ant": 1, "bee": 1}, "test": {"ant": 1, "wasp": 1}})
    with pytest.raises(RequestError, match="wasp, which the training split lacks") as raised:
        image_folder(str(tmp_path), options=read_options())
    assert str(tmp_path) in str(raised.value)


def test_images_deeper_in_a_class_folder_belong_to_the_class(
    tmp_path: Path, save_folders: SaveFolders, save_noise: SaveNoise, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    save_noise(tmp_path / "train" / "cat" / "tabby" / "old" / "x.png")
    assert labels(image_folder(str(tmp_path), options=read_options()), "train") == [0] * 4 + [1] * 2


def test_hidden_and_other_files_are_passed_over(
    tmp_path: Path,
    save_folders: SaveFolders,
    save_noise: SaveNoise,
    read_options: Options,
    all_images: AllImages,
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    for split in ("train", "test"):
        save_noise(tmp_path / split / "cat" / ".hidden.png")
        save_noise(tmp_path / split / "cat" / ".thumbnails" / "x.png")
        save_noise(tmp_path / split / ".ipynb_checkpoints" / "x.png")  # no class of its own
        save_noise(tmp_path / split / "stray.png")  # beside the class folders
        (tmp_path / split / "cat" / "notes.txt").write_text("not an image")
        (tmp_path / split / "cat" / "no_ending").write_text("not an image")
    data = image_folder(str(tmp_path), options=read_options())
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    np.testing.assert_array_equal(all_images(data.test.images), pixels["test"])


def test_a_type_that_pillow_writes_and_cannot_read_is_passed_over(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    Image.new("RGB", (6, 6)).save(tmp_path / "train" / "cat" / "licence.pdf")
    assert len(image_folder(str(tmp_path), options=read_options()).train) == 5


def test_the_ending_may_be_in_capitals(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    path = tmp_path / "train" / "cat" / "0.png"
    path.rename(path.with_suffix(".PNG"))
    assert len(image_folder(str(tmp_path), options=read_options()).train) == 5


def test_a_link_back_to_a_parent_counts_no_image_twice(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train" / "cat")
    assert len(image_folder(str(tmp_path), options=read_options()).train) == 5


def test_class_folders_may_be_links(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path / "real", TWO_CLASSES)
    (tmp_path / "linked").mkdir()
    for split in ("train", "test"):
        (tmp_path / "linked" / split).symlink_to(tmp_path / "real" / split)
    assert labels(image_folder(str(tmp_path / "linked"), options=read_options()), "test") == [
        0,
        1,
        1,
    ]


# ------------------------------------------------------------------ folders without labels


def test_a_flat_folder_is_read_without_labels(
    tmp_path: Path, save_noise: SaveNoise, read_options: Options, all_images: AllImages
) -> None:
    first, second = save_noise(tmp_path / "a.png"), save_noise(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("not an image")
    data = image_folder(str(tmp_path), options=read_options(supervised=False))
    np.testing.assert_array_equal(
        all_images(data.pretrain.images), np.stack([first, second]).transpose(0, 3, 1, 2)
    )
    assert data.pretrain.labels_N is None
    assert data.train is None
    assert data.test is None
    assert data.classes == ()


def test_a_nested_folder_is_read_without_labels(
    tmp_path: Path, save_noise: SaveNoise, read_options: Options
) -> None:
    for place in ("x.png", "2019/a.png", "2019/may/b.png", "2020/c.png", ".trash/d.png"):
        save_noise(tmp_path / place)
    data = image_folder(str(tmp_path), options=read_options(supervised=False))
    assert len(data.pretrain) == 4


def test_training_without_labels_needs_no_test_split(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, {"train": {"cat": 3, "dog": 2}})
    data = image_folder(str(tmp_path), options=read_options(supervised=False))
    assert len(data.pretrain) == 5
    assert data.pretrain.labels_N is None


def test_training_without_labels_still_evaluates_where_there_are_some(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    data = image_folder(str(tmp_path), options=read_options(supervised=False))
    assert labels(data, "train") == [0, 0, 0, 1, 1]
    assert labels(data, "test") == [0, 1, 1]


# ------------------------------------------------------------------ what is not there


def test_a_root_that_is_not_given_is_asked_for(read_options: Options) -> None:
    with pytest.raises(RequestError, match=r"dataset\.root is not set.*dataset\.root=DIR"):
        image_folder(None, options=read_options())


@pytest.mark.parametrize("supervised", [True, False])
def test_a_missing_folder_is_named(tmp_path: Path, read_options: Options, supervised: bool) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(RequestError, match="no such folder") as raised:
        image_folder(str(missing), options=read_options(supervised=supervised))
    assert f"dataset.root={missing}" in str(raised.value)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path, read_options: Options) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="no such folder"):
        image_folder(str(tmp_path / "file"), options=read_options())


def test_a_relative_root_is_named_in_full_too(
    tmp_path: Path, read_options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RequestError,
        match=re.escape(f"dataset.root=pets: there is no such folder ({tmp_path / 'pets'})"),
    ):
        image_folder("pets", options=read_options())


def test_a_root_may_be_below_the_home_folder(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_folders(tmp_path / "pets", TWO_CLASSES)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(image_folder("~/pets", options=read_options()).train) == 5


def test_an_empty_folder_is_named_with_what_to_put_there(
    tmp_path: Path, read_options: Options
) -> None:
    with pytest.raises(RequestError, match="train/CLASS/"):
        image_folder(str(tmp_path), options=read_options())
    with pytest.raises(RequestError, match="no images; put images there") as raised:
        image_folder(str(tmp_path), options=read_options(supervised=False))
    assert str(raised.value).startswith(str(tmp_path))


# ------------------------------------------------------------------ files that cannot be read


def damage_text(path: Path) -> None:
    path.write_text("a text file that somebody named .png")


def damage_chunk(path: Path) -> None:
    """Half of the pixels, then rubbish where the next chunk should begin: Pillow's reader raises
    a SyntaxError."""
    whole = path.read_bytes()
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[start : start + 4])
    half = struct.pack(">I", length // 2) + whole[start + 4 : start + 8 + length // 2]
    path.write_bytes(whole[:start] + half + b"\x00" * 4 + b"\x13\xb6';" * 4)


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", [cut_short, damage_text, damage_chunk, dangle])
@pytest.mark.parametrize("image_size", [None, 6])
def test_an_unreadable_image_is_named(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    split: str,
    damage: Callable[[Path], None],
    image_size: int | None,
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    path = tmp_path / split / "dog" / "1.png"
    damage(path)
    with pytest.raises(RequestError, match="replace the file or delete it") as raised:
        image_folder(str(tmp_path), options=read_options(workers=2), image_size=image_size)
    assert str(raised.value).startswith(f"{path}:")
    assert "\n" not in str(raised.value)
    # Training images are read first; of a split that could not be read nothing is cached.
    read = split == "test"
    assert len(list(tmp_path.glob("cache/*.npy"))) == read


def test_an_absurdly_large_image_is_named_where_sizes_are_sampled(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(RequestError, match=r"\.png: more than the 20 pixels"):
        image_folder(str(tmp_path), options=read_options())


GIVEN = {"image_size": 6, "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("given", [{"image_size": 6}, GIVEN])
@pytest.mark.parametrize("damage", [cut_short, damage_text, damage_chunk])
def test_of_a_streamed_set_a_damaged_file_is_named_before_training(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    split: str,
    given: dict[str, Any],
    damage: Callable[[Path], None],
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    path = tmp_path / split / "dog" / "1.png"
    damage(path)
    streamed = read_options(memory_limit_gb=0, workers=1)
    for _ in range(2):  # that it was looked through is not noted
        with pytest.raises(RequestError) as raised:
            image_folder(str(tmp_path), options=streamed, **given)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_a_streamed_set_is_looked_through_once_and_again_where_a_file_has_changed(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    checked: list[str] = []
    check_file = folder.check_file

    def note(path: str) -> None:
        checked.append(path)
        check_file(path)

    monkeypatch.setattr(folder, "check_file", note)
    streamed = read_options(memory_limit_gb=0)
    image_folder(str(tmp_path), options=streamed, **GIVEN)
    assert len(checked) == 8
    image_folder(str(tmp_path), options=streamed, **GIVEN)
    assert len(checked) == 8
    change_time(tmp_path / "test" / "cat" / "0.png")
    image_folder(str(tmp_path), options=streamed, **GIVEN)
    assert len(checked) == 8 + 3  # of the test split


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_set_gives_what_the_one_in_memory_gives(
    tmp_path: Path,
    save_noise: SaveNoise,
    read_options: Options,
    all_images: AllImages,
    workers: int,
) -> None:
    for split in ("train", "test"):
        for i in range(5):
            save_noise(tmp_path / split / "ab"[i % 2] / f"{i}.png", 10 + i, 14 - i)
    kept = image_folder(str(tmp_path), options=read_options(workers=2))
    streamed = image_folder(
        str(tmp_path),
        options=read_options(memory_limit_gb=0, workers=workers, cache_dir=tmp_path / "other"),
    )
    assert isinstance(kept.train.images, ArrayImages)
    assert isinstance(streamed.train.images, FileImages)
    for split in ("train", "test"):
        assert labels(kept, split) == labels(streamed, split)
        assert torch.equal(
            all_images(getattr(kept, split).images), all_images(getattr(streamed, split).images)
        )
    assert (kept.mean, kept.std) == (streamed.mean, streamed.std)
    assert kept.image_size == streamed.image_size


def test_the_memory_limit_is_met_to_the_byte(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, {"train": {"a": 4}, "test": {"a": 4}})
    bytes_needed = (4 + 4) * 3 * 6 * 6  # of the whole data set
    enough = read_options(memory_limit_gb=bytes_needed / 2**30)
    too_little = read_options(memory_limit_gb=(bytes_needed - 1) / 2**30)
    assert isinstance(image_folder(str(tmp_path), options=enough).train.images, ArrayImages)
    assert isinstance(image_folder(str(tmp_path), options=too_little).train.images, FileImages)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory_limit_gb", -1),
        ("memory_limit_gb", float("nan")),
        ("memory_limit_gb", "4"),
        ("workers", -1),
        ("workers", 1.5),
        ("workers", True),
    ],
)
def test_read_options_out_of_range_are_named(
    read_options: Options, key: str, value: object
) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"data\.{key} .*got {value!r}"):
        read_options(**{key: value})


# ------------------------------------------------------------------ sizes


def save_sizes(root: Path, save_noise: SaveNoise, sizes: list[tuple[int, int]]) -> None:
    for i, (width, height) in enumerate(sizes):
        save_noise(root / "train" / "a" / f"{i}.png", width, height)
    save_noise(root / "test" / "a" / "0.png", 5, 5)


def test_mixed_sizes_are_read_at_their_median_short_side(
    tmp_path: Path, save_noise: SaveNoise, read_options: Options, all_images: AllImages
) -> None:
    save_sizes(tmp_path, save_noise, [(8, 40), (11, 12), (30, 14), (50, 60), (9, 9)])
    data = image_folder(str(tmp_path), options=read_options())
    assert data.image_size == 11  # of 8, 9, 11, 14, 50
    assert all_images(data.train.images).shape == (5, 3, 11, 11)
    assert all_images(data.test.images).shape == (1, 3, 11, 11)


@steady
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=9))
def test_the_median_short_side_is_numpys(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("sizes")
    for i, size in enumerate(sizes):
        Image.new("L", size).save(root / f"{i}.bmp")
    options = ReadOptions(cache_dir=root / "cache", memory_limit_gb=0, workers=0, supervised=False)
    data = image_folder(str(root), options=options, mean=[0.5], std=[0.2])
    assert data.image_size == int(np.median([min(size) for size in sizes]))


def test_the_median_is_of_an_even_sample_of_a_large_folder(
    tmp_path: Path,
    save_noise: SaveNoise,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folder, "SAMPLE_FOR_SIZE", 4)
    for i in range(12):
        save_noise(tmp_path / f"{i:02}.png", 5 + i, 40)
    data = image_folder(str(tmp_path), options=read_options(supervised=False))
    assert data.image_size == 9  # of 5, 8, 11, 14; of all it would be 10


# The encoder sees at most 224 pixels; larger images are stored with a margin for crops, up to 256.
@pytest.mark.parametrize(
    ("side", "image_size", "stored"),
    [(223, 223, 223), (224, 224, 224), (240, 224, 240), (256, 224, 256), (300, 224, 256)],
)
def test_large_images_are_seen_at_224_pixels_and_stored_with_a_margin(
    tmp_path: Path,
    save_noise: SaveNoise,
    read_options: Options,
    all_images: AllImages,
    side: int,
    image_size: int,
    stored: int,
) -> None:
    save_sizes(tmp_path, save_noise, [(side, side + 3)])
    data = image_folder(str(tmp_path), options=read_options())
    assert data.image_size == image_size
    assert all_images(data.train.images).shape == (1, 3, stored, stored)


@pytest.mark.parametrize(("width", "streamed"), [(240, False), (320, True)])
def test_large_images_that_are_not_square_are_decoded_on_the_fly(
    tmp_path: Path,
    save_noise: SaveNoise,
    read_options: Options,
    width: int,
    streamed: bool,
) -> None:
    """So that crops see their sides, too."""
    save_sizes(tmp_path, save_noise, [(width, 240)])
    data = image_folder(str(tmp_path), options=read_options())
    assert isinstance(data.train.images, FileImages) == streamed


@pytest.mark.parametrize(("image_size", "stored"), [(4, 4), (20, 20), (224, 256)])
def test_a_given_image_size_is_kept(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    image_size: int,
    stored: int,
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    data = image_folder(str(tmp_path), options=read_options(), image_size=image_size)
    assert data.image_size == image_size
    assert all_images(data.test.images).shape == (3, 3, stored, stored)


@pytest.mark.parametrize("image_size", [0, -1, 7.5, "large"])
def test_an_image_size_out_of_range_is_named(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options, image_size: Any
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    with pytest.raises((ValueError, TypeError, RequestError), match="image_size"):
        image_folder(str(tmp_path), options=read_options(), image_size=image_size)


# ------------------------------------------------------------------ mean and std


def numpy_statistics(images_NCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = images_NCHW / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3))


def test_mean_and_std_are_those_of_the_training_images(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    data = image_folder(str(tmp_path), options=read_options())
    mean_C, std_C = numpy_statistics(pixels["train"])
    np.testing.assert_allclose(data.mean, mean_C, rtol=1e-12)
    np.testing.assert_allclose(data.std, std_C, rtol=1e-10)


def test_mean_and_std_are_worked_out_once(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    first = image_folder(str(tmp_path), options=read_options())
    monkeypatch.delattr(folder, "channel_statistics")
    again = image_folder(str(tmp_path), options=read_options())
    assert (again.mean, again.std) == (first.mean, first.std)
    with pytest.raises(NameError):  # another size is another question
        image_folder(str(tmp_path), options=read_options(), image_size=5)


def test_mean_and_std_that_are_given_are_kept(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    data = image_folder(str(tmp_path), options=read_options(), mean=mean, std=std)
    assert (data.mean, data.std) == (mean, std)


def test_a_mean_that_is_given_alone_is_not_thrown_away(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    mean = (0.1, 0.2, 0.3)
    data = image_folder(str(tmp_path), options=read_options(), mean=mean)
    assert data.mean == mean
    np.testing.assert_allclose(data.std, numpy_statistics(pixels["train"])[1], rtol=1e-10)


# ------------------------------------------------------------------ the cache


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded to be cached, in the order of their names."""
    paths: list[Path] = []
    decode_all = folder._Part._decode_all

    def note(part: Any) -> np.ndarray:
        paths.extend(map(Path, part.listing.paths))
        return decode_all(part)

    monkeypatch.setattr(folder._Part, "_decode_all", note)
    return paths


def test_the_second_time_nothing_is_decoded(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    decoded: list[Path],
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    image_folder(str(tmp_path), options=read_options(workers=2))
    assert len(decoded) == 8
    decoded.clear()
    data = image_folder(str(tmp_path), options=read_options())
    assert decoded == []
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    np.testing.assert_array_equal(all_images(data.test.images), pixels["test"])
    assert labels(data, "test") == [0, 1, 1]


def test_only_the_cache_folder_is_written_to(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path / "pets", TWO_CLASSES)
    before = sorted(tmp_path.rglob("*"))
    image_folder(str(tmp_path / "pets"), options=read_options())
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path.parent for path in new} == {tmp_path, tmp_path / "cache"}
    # An array and facts of each split, and no temporary files.
    assert sorted(path.suffix for path in new) == ["", ".json", ".json", ".npy", ".npy"]


def rewrite(path: Path, pixels_HWC: np.ndarray) -> None:
    """Writes other pixels in as many bytes, since BMP does not compress."""
    size = path.stat().st_size
    Image.fromarray(pixels_HWC).save(path)
    assert path.stat().st_size == size


def change_time(path: Path) -> None:
    stat = path.stat()
    if path.suffix == ".bmp":
        rewrite(path, np.full((6, 6, 3), 9, np.uint8))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))


def change_size(path: Path) -> None:
    """Another file with the same time."""
    stat = path.stat()
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), 9, np.uint8)).save(stream, "BMP")
    path.write_bytes(stream.getvalue() + b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_name(path: Path) -> None:
    path.rename(path.with_name("z.bmp"))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [change_time, change_size, change_name, remove])
def test_a_change_of_a_file_renews_the_cache(
    tmp_path: Path,
    save_noise: SaveNoise,
    read_options: Options,
    all_images: AllImages,
    decoded: list[Path],
    change: Callable[[Path], None],
) -> None:
    for split in ("train", "test"):
        for i in range(3):
            save_noise(tmp_path / split / "cat" / f"{i}.bmp")
    image_folder(str(tmp_path), options=read_options())
    decoded.clear()
    change(tmp_path / "train" / "cat" / "2.bmp")
    data = image_folder(str(tmp_path), options=read_options())
    paths = sorted((tmp_path / "train" / "cat").iterdir())
    assert decoded == paths  # and the test split is still cached
    expected = np.stack([np.asarray(Image.open(p)).transpose(2, 0, 1) for p in paths])
    np.testing.assert_array_equal(all_images(data.train.images), expected)
    np.testing.assert_allclose(data.mean, numpy_statistics(expected)[0], rtol=1e-12)


def test_another_size_is_cached_beside_the_first(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options, decoded: list[Path]
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    image_folder(str(tmp_path), options=read_options())
    image_folder(str(tmp_path), options=read_options(), image_size=5)
    assert len(decoded) == 16
    image_folder(str(tmp_path), options=read_options())
    assert len(decoded) == 16


def test_a_folder_that_was_moved_is_read_again(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options, decoded: list[Path]
) -> None:
    save_folders(tmp_path / "here", TWO_CLASSES)
    image_folder(str(tmp_path / "here"), options=read_options())
    decoded.clear()
    (tmp_path / "here").rename(tmp_path / "there")
    image_folder(str(tmp_path / "there"), options=read_options())
    assert len(decoded) == 8


@pytest.mark.parametrize("deep", [False, True])
def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    caplog: pytest.LogCaptureFixture,
    deep: bool,
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    (tmp_path / "file").write_text("in the way")
    cache_dir = tmp_path / "file" / "below" if deep else tmp_path / "file"
    data = image_folder(str(tmp_path), options=read_options(cache_dir=cache_dir))
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    assert str(cache_dir) in caplog.text
    assert "not cached" in caplog.text
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_leaves_no_half_written_cache(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)

    def fail(file: Any, _: np.ndarray) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    data = image_folder(str(tmp_path), options=read_options())
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"] * 2


@pytest.mark.parametrize("ending", ["npy", "json"])
@pytest.mark.parametrize("left", [0, 20])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    ending: str,
    left: int,
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    first = image_folder(str(tmp_path), options=read_options())
    for path in (tmp_path / "cache").glob(f"*.{ending}"):
        path.write_bytes(path.read_bytes()[:left])
    data = image_folder(str(tmp_path), options=read_options())
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    assert (data.mean, data.std) == (first.mean, first.std)


def save_equal_files(root: Path, brightness: int) -> None:
    """Images of equal size and time, as an archive of uncompressed images has them."""
    for split, offset in (("train", 0), ("test", 100)):
        for i in range(3):
            path = root / split / "cat" / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((6, 6, 3), brightness + offset + i, np.uint8)
            pixels[0, 0] = 0
            Image.fromarray(pixels).save(path)
            os.utime(path, ns=(10**18, 10**18))


def test_splits_of_equal_names_sizes_and_times_are_told_apart(
    tmp_path: Path, read_options: Options, all_images: AllImages
) -> None:
    save_equal_files(tmp_path, 10)
    for _ in range(2):
        data = image_folder(str(tmp_path), options=read_options())
        assert all_images(data.train.images)[:, 0, 1, 1].tolist() == [10, 11, 12]
        assert all_images(data.test.images)[:, 0, 1, 1].tolist() == [110, 111, 112]


def test_another_archive_in_the_same_place_is_told_apart(
    tmp_path: Path, read_options: Options, all_images: AllImages
) -> None:
    save_equal_files(tmp_path, 10)
    image_folder(str(tmp_path), options=read_options())
    save_equal_files(tmp_path, 50)
    data = image_folder(str(tmp_path), options=read_options())
    assert all_images(data.train.images)[:, 0, 1, 1].tolist() == [50, 51, 52]


def test_an_array_of_other_pixels_is_not_served(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options, all_images: AllImages
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    image_folder(str(tmp_path), options=read_options())
    for path in (tmp_path / "cache").glob("*.npy"):
        array = np.load(path)
        np.save(path, 255 - array)
    data = image_folder(str(tmp_path), options=read_options())
    np.testing.assert_array_equal(all_images(data.train.images), pixels["train"])
    np.testing.assert_array_equal(all_images(data.test.images), pixels["test"])


# ------------------------------------------------------------------ leaving out what is damaged


@pytest.mark.parametrize("memory_limit_gb", [0, 1])
def test_damaged_files_are_left_out_counted_and_listed(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    all_images: AllImages,
    caplog: pytest.LogCaptureFixture,
    memory_limit_gb: float,
) -> None:
    pixels = save_folders(tmp_path, TWO_CLASSES)
    damage_text(tmp_path / "train" / "cat" / "1.png")
    cut_short(tmp_path / "test" / "dog" / "0.png")
    skipping = read_options(on_damaged="skip", memory_limit_gb=memory_limit_gb)
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        data = image_folder(str(tmp_path), options=skipping)
        np.testing.assert_array_equal(
            all_images(data.train.images), np.delete(pixels["train"], 1, axis=0)
        )
        assert labels(data, "train") == [0, 0, 1, 1]
        assert labels(data, "test") == [0, 1]
        named = [line.split(":")[0] for line in data.left_out]
        assert named == ["train/cat/1.png", "test/dog/0.png"]
        assert "1 of 5 images are damaged and left out" in caplog.text
        assert "cat/1.png: not an image that Pillow can read" in caplog.text
    with pytest.raises(RequestError, match=r"train/cat/1\.png: not an image"):
        image_folder(str(tmp_path), options=read_options(memory_limit_gb=memory_limit_gb))


def test_a_class_of_damaged_files_alone_is_named(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    damage_text(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(RequestError, match="all images of cat are damaged"):
        image_folder(str(tmp_path), options=read_options(on_damaged="skip"))


@pytest.mark.parametrize("memory_limit_gb", [0, 1])
def test_a_set_of_constant_images_is_reported(
    tmp_path: Path,
    read_options: Options,
    caplog: pytest.LogCaptureFixture,
    memory_limit_gb: float,
) -> None:
    for split in ("train", "test"):
        for i in range(4):
            path = tmp_path / split / "a" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((6, 6), 40 * i, np.uint8)).save(path)
    image_folder(str(tmp_path), options=read_options(memory_limit_gb=memory_limit_gb))
    assert "4 of 4 sampled images have a single value" in caplog.text


# ------------------------------------------------------------------ a given list of classes


def test_the_classes_of_imagenet100_are_accepted_in_any_order(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    config = OmegaConf.load(config_dir() / "dataset" / "imagenet100.yaml")
    assert len(set(config.classes)) == 100
    counts = dict.fromkeys(config.classes, 1)
    save_folders(tmp_path, {"train": counts, "val": counts}, side=2)
    data = image_folder(
        str(tmp_path),
        options=read_options(),
        image_size=2,
        mean=config.mean,
        std=config.std,
        classes=list(reversed(config.classes)),
    )
    assert data.classes == tuple(sorted(config.classes))
    assert labels(data, "test") == list(range(100))


def test_missing_and_superfluous_classes_are_named_and_counted(
    tmp_path: Path, save_folders: SaveFolders, read_options: Options
) -> None:
    save_folders(tmp_path, TWO_CLASSES)
    wanted = ["dog", *(f"n{i}" for i in range(7))]
    with pytest.raises(RequestError, match="not the 8 classes of this data set") as raised:
        image_folder(str(tmp_path), options=read_options(), classes=wanted)
    assert str(tmp_path / "train") in str(raised.value)
    assert "missing: n0, n1, n2, n3, n4 (7)" in str(raised.value)
    assert "not among them: cat (1)" in str(raised.value)


def test_what_could_not_be_read_for_once_is_looked_at_again(
    tmp_path: Path,
    save_folders: SaveFolders,
    read_options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network drive that was away, say."""
    save_folders(tmp_path, TWO_CLASSES)

    def fail_once(path: str | Path, mode: str) -> IO[Any]:
        if Path(path).name == "1.png" and Path(path).parent.name == "cat":
            raise OSError(errno.EIO, "Input/output error")
        return open(path, mode)

    for limit in (0, 1):
        skipping = read_options(on_damaged="skip", memory_limit_gb=limit)
        with monkeypatch.context() as patch:
            patch.setattr(decode_module, "open", fail_once, raising=False)
            assert "Input/output error" in image_folder(str(tmp_path), options=skipping).left_out[0]
        assert image_folder(str(tmp_path), options=skipping).left_out == ()


def test_a_streamed_set_is_named_by_the_content_of_all_its_files(
    tmp_path: Path, write_images: Callable[..., Path], read_options: Options
) -> None:
    """Also of those of which the cache's key looks at name, size and times alone."""
    root = write_images(tmp_path / "images", {"train/red": 100, "train/blue": 4, "test/red": 2})
    streamed = read_options(memory_limit_gb=0)
    before = image_folder(str(root), options=streamed).fingerprint()
    assert image_folder(str(root), options=streamed).fingerprint() == before
    paths = sorted((root / "train" / "red").iterdir())
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(paths[37])
    changed = image_folder(str(root), options=streamed).fingerprint()
    assert difference(before, changed) == "other training images than before"
