"""Batches of files are decoded in order, in threads; what cannot be read is left out or raised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcl_train.data.decode import UnreadableImage, decode
from tcl_train.data.stream import decoded_batches


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{i:02}.png" for i in range(37)]
    for path in found:
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return [str(path) for path in found]


def cut(paths: list[str], size: int = 10) -> list[list[str]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_file_comes_in_its_place(paths: list[str], threads: int) -> None:
    batches = cut(paths)
    found = list(decoded_batches(batches, 6, threads=threads, skip=False))
    assert [len(batch.images_B3SS) for batch in found] == [10, 10, 10, 7]
    for batch, of_batch in zip(found, batches, strict=True):
        assert batch.places_B == list(range(len(of_batch)))
        for image_3SS, path in zip(batch.images_B3SS, of_batch, strict=True):
            assert np.array_equal(image_3SS, decode(path, 6))


def test_unreadable_files_are_left_out(paths: list[str]) -> None:
    for place in (3, 10, 36):
        Path(paths[place]).write_bytes(b"no image")
    found = list(decoded_batches(cut(paths), 6, threads=2, skip=True))
    assert [len(batch.images_B3SS) for batch in found] == [9, 9, 10, 6]
    assert found[0].places_B == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert np.array_equal(found[1].images_B3SS[0], decode(paths[11], 6))


def test_or_the_first_of_them_is_raised(paths: list[str]) -> None:
    Path(paths[12]).write_bytes(b"no image")
    batches = decoded_batches(cut(paths), 6, threads=2, skip=False)
    assert len(next(batches).places_B) == 10
    with pytest.raises(UnreadableImage, match=r"12.png: not an image"):
        next(batches)


def test_it_can_be_left_in_the_middle(paths: list[str]) -> None:
    batches = decoded_batches(cut(paths, 1), 6, threads=2, skip=False)
    next(batches)
    batches.close()
    assert list(decoded_batches([], 6, threads=2, skip=False)) == []
