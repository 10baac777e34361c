"""A run is resumed on the data that it was started with, wherever they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcl_train.cli.main import main_eval
from tcl_train.run.directory import RunDir

COUNTS = {f"{split}/{name}": 12 for split in ("train", "test") for name in ("blue", "red")}
WORDS = (
    "dataset=image_folder",
    "dataset.image_size=8",
    "augment=crop_flip",
    "epochs=2",
    "batch_size=4",
    "loss=supcon",
    "data.workers=0",
)


@pytest.fixture
def images(write_images: Callable[..., Path], tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", COUNTS)


@pytest.fixture
def interrupted(
    command: Callable[..., Any],
    tiny_words: Callable[..., list[str]],
    signalled: Callable[..., Any],
    images: Path,
    request: pytest.FixtureRequest,
) -> RunDir:
    """Its parameter is data.memory_limit_gb."""
    limit = f"data.memory_limit_gb={getattr(request, 'param', 1)}"
    words = tiny_words(*WORDS, limit, f"dataset.root={images}", "hydra.run.dir=run")
    with signalled(3):
        assert command(*words).status == 130
    return RunDir("run")


def add_an_image(root: Path) -> None:
    shutil.copy(root / "train/red/0.png", root / "train/red/more.png")


def remove_a_test_image(root: Path) -> None:
    (root / "test/red/0.png").unlink()


def add_a_class(root: Path) -> None:
    shutil.copytree(root / "train/red", root / "train/green")


def rename_a_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "red").rename(root / split / "rot")


def change_pixels(root: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "train/red/3.png")


def swap_classes(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "red").rename(root / split / "x")
        (root / split / "blue").rename(root / split / "red")
        (root / split / "x").rename(root / split / "blue")


@pytest.mark.parametrize("interrupted", [0, 1], indirect=True, ids=["streamed", "in memory"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_an_image, "24 training images before, 25 now"),
        (remove_a_test_image, "24 test images before, 23 now"),
        (add_a_class, "new classes: green"),
        (rename_a_class, "new classes: rot; missing classes: red"),
        (change_pixels, "other training images than before"),
        (swap_classes, "other training images and test images than before"),
    ],
)
def test_a_run_on_changed_data_is_not_resumed(
    interrupted: RunDir,
    images: Path,
    refused: Callable[..., str],
    change: Callable[[Path], None],
    words: str,
) -> None:
    change(images)
    assert words in refused("resume=run")


def test_the_same_data_may_lie_elsewhere(
    interrupted: RunDir, images: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    images.rename(tmp_path / "moved")
    assert command("resume=run").status == 2
    outcome = command("resume=run", f"dataset.root={tmp_path / 'moved'}")
    assert outcome.status == 0
    result = json.loads(interrupted.result.read_text())
    assert result["dataset_root"] == str(tmp_path / "moved")
    assert result["test_split"] == str(tmp_path / "moved" / "test")


def test_another_root_with_other_data_is_refused(
    interrupted: RunDir,
    images: Path,
    refused: Callable[..., str],
    write_images: Callable[..., Path],
    tmp_path: Path,
) -> None:
    other = write_images(tmp_path / "other", {**COUNTS, "train/red": 13})
    assert "24 training images before, 25 now" in refused("resume=run", f"dataset.root={other}")


def test_the_same_data_may_be_streamed_from_then_on(
    interrupted: RunDir, command: Callable[..., Any]
) -> None:
    """Pixels and files have digests of their own; only the same kind is compared."""
    assert command("resume=run", "data.memory_limit_gb=0").status == 0


def test_evaluations_name_the_folder_that_they_scored(
    interrupted: RunDir,
    command: Callable[..., Any],
    images: Path,
) -> None:
    assert command("run=run", main=main_eval).status == 0
    (path,) = (interrupted.path / "evaluations").glob("*.json")
    result = json.loads(path.read_text())
    assert result["dataset_root"] == str(images)
    assert result["test_split"] == str(images / "test")
    assert result["left_out"] == []
