"""The script that makes a folder to choose settings with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "hold_out.py"


def hold_out(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def images(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    return write_images(tmp_path / "images", {"train/a": 7, "train/b": 5, "test/a": 2, "test/b": 2})


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def test_every_so_manyth_training_image_of_a_class_is_held_out(images: Path, tmp_path: Path):
    assert hold_out(images, tmp_path / "new", "--every", 3).returncode == 0
    test, train = names(tmp_path / "new" / "test"), names(tmp_path / "new" / "train")
    assert test == {"a/0.png", "a/3.png", "a/6.png", "b/0.png", "b/3.png"}
    assert train | test == names(images / "train")
    assert not train & test
    linked = tmp_path / "new" / "test" / "a" / "3.png"
    assert linked.read_bytes() == (images / "train" / "a" / "3.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--every", "1"], "at least 2"), ([], "is there already")],
)
def test_what_cannot_be_done_is_refused_in_a_line(
    images: Path, tmp_path: Path, words: list[str], said: str
):
    (tmp_path / "new").mkdir()
    done = hold_out(images, tmp_path / "new", *words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_without_classes_is_refused(tmp_path: Path):
    done = hold_out(tmp_path, tmp_path / "new")
    assert done.returncode == 2
    assert "no folders of classes" in done.stderr.splitlines()[-1]
