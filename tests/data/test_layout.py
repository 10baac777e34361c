"""Folders as people have them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tcl_train.data.layout import Layout, find_layout, has_image_folders
from tcl_train.errors import RequestError


def touch(root: Path, *names: str) -> Path:
    """Empty files; listing looks at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def layout(root: Path, **changes: object) -> Layout:
    usual = {"supervised": True, "test_fraction": None, "seed": 1}
    return find_layout(root, **{**usual, **changes})  # type: ignore[arg-type]


def refused(root: Path, **changes: object) -> str:
    with pytest.raises(RequestError) as raised:
        layout(root, **changes)
    message = str(raised.value)
    assert "\n" not in message
    return message


TRAIN = ("train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png")


@pytest.mark.parametrize(
    "name", ["test", "Test", "TEST", "testing", "val", "valid", "validation", "Validation"]
)
def test_the_test_split_goes_by_many_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *TRAIN, f"{name}/a/0.png")
    found = layout(tmp_path)
    assert has_image_folders(tmp_path)
    assert found.test is not None
    assert found.test.names == ["a/0.png"]
    assert found.test_split == str(tmp_path / name)
    assert len(found.train) == 4


def test_the_training_split_may_be_in_capitals(tmp_path: Path) -> None:
    touch(tmp_path, "Train/a/0.png", "Val/a/0.png")
    assert layout(tmp_path).train.names == ["a/0.png"]


def test_val_is_taken_where_test_has_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "test/0.png", "val/b/0.png")
    found = layout(tmp_path)
    assert found.test_split == str(tmp_path / "val")
    assert found.test is not None
    assert found.test.labels == [1]


@pytest.mark.parametrize("below", ["", "train/"])
def test_of_a_single_split_a_share_of_each_class_is_held_out(tmp_path: Path, below: str) -> None:
    touch(tmp_path, *(f"{below}{c}/{i}.png" for c, n in (("a", 10), ("b", 25)) for i in range(n)))
    found = layout(tmp_path)
    assert found.test is not None
    assert Counter(found.test.labels) == {0: 2, 1: 5}
    assert Counter(found.train.labels) == {0: 8, 1: 20}
    assert not set(found.train.paths) & set(found.test.paths)
    assert found.test_split is not None
    assert "0.2 of each class" in found.test_split
    assert "seed 1" in found.test_split


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(50)))

    def held(**changes: object) -> list[str]:
        test = layout(tmp_path, **changes).test
        assert test is not None
        return test.names

    assert held() == held()
    assert held(seed=2) != held()
    assert len(held(test_fraction=0.5)) == 50


def test_a_class_is_never_held_out_whole(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    for fraction in (0.01, 0.99):
        found = layout(tmp_path, test_fraction=fraction)
        assert found.test is not None
        assert found.train.labels == found.test.labels == [0, 1]


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "a/1.png", "b/0.png")
    assert f"{tmp_path / 'b'}: one image" in refused(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("0.png", "1.png"),
        ("2019/0.png", "2020/deep/1.png"),
        ("train/0.png", "train/1.png"),
        ("train/0.png", "train/1.png", "test/2.png"),
        ("train/x/0.png", "train/y/1.png"),
    ],
)
def test_without_labels_any_layout_will_do(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    found = layout(tmp_path, supervised=False)
    assert len(found.train) == 2
    assert found.test is None
    assert found.train.labels_N is None


def test_without_labels_a_share_is_held_out_where_it_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(5)))
    found = layout(tmp_path, supervised=False, test_fraction=0.2)
    assert found.test is not None
    assert len(found.test) == 2


def test_without_labels_foreign_test_classes_only_end_the_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *TRAIN, "test/c/0.png")
    assert layout(tmp_path, supervised=False).test is None
    assert "not evaluated on" in caplog.text
    assert "the test split has c, which the training split lacks" in refused(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_class_folders_and_those_of_archivers_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str
) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png", f"{split}/__MACOSX/x/._0.png", "__MACOSX/0.png")
    touch(tmp_path, f"{split}/bird/notes.txt")
    found = layout(tmp_path)
    assert found.train.classes == ("a", "b")
    assert "set aside, since they hold no images: bird" in caplog.text


def test_images_that_belong_to_no_class_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *TRAIN, "train/loose.png", "train/notes.txt", "test/a/0.png")
    assert len(layout(tmp_path).train) == len(TRAIN)
    assert f"{tmp_path / 'train'}: 1 images are in no class folder" in caplog.text


def test_a_class_that_is_a_link_to_another_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png")
    assert "same folder" not in caplog.text
    (tmp_path / "train" / "c").symlink_to(tmp_path / "train" / "a")
    layout(tmp_path)
    a, c = (tmp_path / "train" / name for name in "ac")
    assert f"{a} and {c} are the same folder" in caplog.text


def test_test_folders_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png", "val/a/0.png")
    with caplog.at_level("INFO"):
        found = layout(tmp_path)
    assert found.test is not None
    assert found.test.folder == tmp_path / "test"
    assert "testing on test; not used: val" in caplog.text


def test_a_class_folder_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png")
    (tmp_path / "train" / "c").symlink_to(tmp_path / "gone")
    assert "a link to" in refused(tmp_path)
    assert str(tmp_path / "train" / "c") in refused(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no class folders with images"),
        (("0.png",), "no class folders with images"),
        (("test/a/0.png",), "there is test/ and no train/"),
        (("train/0.png", "test/a/0.png"), "no class folders with images"),
    ],
)
def test_with_labels_classes_must_be_there(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    message = refused(touch(tmp_path, *names))
    assert message.startswith(f"dataset.root={tmp_path}: ")
    assert words in message


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """It would be waited for."""
    touch(tmp_path, *TRAIN, "test/a/0.png")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    assert len(layout(tmp_path).train) == 4


def test_links_to_themselves_are_named(tmp_path: Path) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png")
    (tmp_path / "train" / "a" / "self.png").symlink_to("self.png")
    assert len(layout(tmp_path).train) == 5  # reading it says what is wrong
    (tmp_path / "train" / "self").symlink_to("self")
    assert f"{tmp_path / 'train' / 'self'}: a link to self" in refused(tmp_path)


def test_a_fraction_beside_a_test_split_is_said_to_be_unused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png")
    assert len(layout(tmp_path, test_fraction=0.5).train) == 4
    assert "dataset.test_fraction is not used" in caplog.text


@pytest.mark.parametrize("ending", ["h5", "hdf", "mpeg", "mpg", "grib", "wmf", "txt", "eps"])
def test_types_that_pillow_cannot_decode_are_left_out(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, *TRAIN, "test/a/0.png", f"train/a/x.{ending}")
    assert len(layout(tmp_path).train) == 4
