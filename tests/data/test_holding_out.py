"""Shares of the images: evenly from each class, and kept out of everything else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.holding_out import held_out_rows
from tcl_train.data.images import ArrayImages, FileImages
from tcl_train.runtime.randomness import generator


@pytest.mark.parametrize("count", [2, 3, 10, 57, 500])
def test_held_out_rows_are_an_even_share_of_each_class(count: int) -> None:
    y_N = torch.arange(count) % 5
    held_N = held_out_rows(y_N, 0.2, generator(3))
    assert 1 <= held_N.sum() < count
    if count == 500:
        assert y_N[held_N].bincount().tolist() == [20] * 5
    assert torch.equal(held_N, held_out_rows(y_N, 0.2, generator(3)))
    if count >= 57:
        assert not torch.equal(held_N, held_out_rows(y_N, 0.2, generator(4)))


def numbered(count: int) -> ArrayImages:
    return ArrayImages(torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1))


def numbers(split: Split | None) -> set[int]:
    assert split is not None
    assert isinstance(split.images, ArrayImages)
    return set(split.images.images_NCHW.flatten().tolist())


@pytest.fixture
def data() -> DataSet:
    train = Split(numbered(40), torch.arange(40) % 4)
    keys = {"classes": tuple("abcd"), "image_size": 1, "mean": (0.5,), "std": (0.5,)}
    return DataSet(pretrain=train, train=train, test=Split(numbered(4), torch.arange(4)), **keys)


def test_validation_images_are_kept_out_of_pretraining_and_of_the_probe(data: DataSet) -> None:
    found = data.with_validation(0.25, generator(1))
    assert found.validation is not None
    assert len(found.validation) == 10
    assert found.pretrain is found.train
    assert numbers(found.train) | numbers(found.validation) == set(range(40))
    assert not numbers(found.train) & numbers(found.validation)
    for split in (found.train, found.validation):
        assert split is not None
        assert split.labels_N is not None
        assert isinstance(split.images, ArrayImages)
        assert torch.equal(split.images.images_NCHW.flatten() % 4, split.labels_N)
    assert found.test is data.test
    assert found.fingerprint() != data.fingerprint()


def test_further_unlabelled_images_stay_in_pretraining(data: DataSet) -> None:
    more = dataclasses.replace(data, pretrain=Split(numbered(100), None))
    found = more.with_validation(0.25, generator(1))
    assert numbers(found.pretrain) == set(range(100)) - numbers(found.validation)


def test_without_a_share_nothing_changes(data: DataSet) -> None:
    assert data.with_validation(0, generator(1)) is data


def test_a_share_of_unlabelled_images_is_refused(data: DataSet) -> None:
    with pytest.raises(ValueError, match=r"validation=0\.1 needs labels"):
        dataclasses.replace(data, train=None, test=None).with_validation(0.1, generator(1))


def test_files_that_are_chosen_have_a_digest_of_their_own(tmp_path: Path) -> None:
    files = FileImages([tmp_path / f"{i}.png" for i in range(5)], 8, 0, "files:abc")
    some, others = files.chosen(torch.tensor([1, 3])), files.chosen(torch.tensor([1, 4]))
    assert some.paths == [tmp_path / "1.png", tmp_path / "3.png"]
    assert len({images.digest() for images in (files, some, others)}) == 3
    assert some.digest() == files.chosen(torch.tensor([1, 3])).digest()
    assert some.digest().startswith("files:")
