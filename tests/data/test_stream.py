"""Batches of files are decoded in order, in threads; what cannot be read is left out or raised."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcl_train.data import stream
from tcl_train.data.decode import UnreadableImage, decode
from tcl_train.data.stream import Decoded, decoded_batches, files_at_a_time


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{i:02}.png" for i in range(37)]
    for path in found:
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return [str(path) for path in found]


def cut(paths: list[str], size: int = 10) -> list[list[str]]:
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def decoded(batches: list[list[str]], *, threads: int = 2, skip: bool = False) -> list[Decoded]:
    with decoded_batches(batches, 6, threads=threads, skip=skip) as found:
        return list(found)


@pytest.mark.parametrize("size", [1, 10, 37], ids="batches of {}".format)
@pytest.mark.parametrize("threads", [1, 3, 20])
def test_every_file_comes_in_its_place(paths: list[str], threads: int, size: int) -> None:
    batches = cut(paths, size)
    found = decoded(batches, threads=threads)
    for batch, of_batch in zip(found, batches, strict=True):
        assert batch.places_B == list(range(len(of_batch)))
        for image_3SS, path in zip(batch.images_B3SS, of_batch, strict=True):
            assert np.array_equal(image_3SS, decode(path, 6))


def test_unreadable_files_are_left_out(paths: list[str]) -> None:
    for place in (3, 10, 36):
        Path(paths[place]).write_bytes(b"no image")
    found = decoded(cut(paths), skip=True)
    assert [len(batch.images_B3SS) for batch in found] == [9, 9, 10, 6]
    assert found[0].places_B == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert np.array_equal(found[1].images_B3SS[0], decode(paths[11], 6))


def test_or_the_first_of_them_is_raised(paths: list[str]) -> None:
    Path(paths[12]).write_bytes(b"no image")
    with decoded_batches(cut(paths), 6, threads=2, skip=False) as batches:
        assert len(next(batches).places_B) == 10
        with pytest.raises(UnreadableImage, match=r"12.png: not an image"):
            next(batches)


def test_it_can_be_left_in_the_middle(paths: list[str]) -> None:
    """Then nothing more is decoded, and standard error is heard again."""
    before = os.fstat(2)
    with decoded_batches(cut(paths, 1), 6, threads=2, skip=False) as batches:
        next(batches)
        assert os.fstat(2) != before
    assert os.fstat(2) == before
    assert decoded([]) == []


def test_no_file_is_begun_after_it_is_left(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may be large, and Ctrl-C should not wait for all of a batch."""
    begun: list[str] = []
    both_begun, left = threading.Event(), threading.Event()

    def slow(path: str, size: int) -> np.ndarray:
        if path != paths[0]:
            begun.append(path)
            if len(begun) == 2:
                both_begun.set()
            left.wait(10)
        return decode(path, size)

    monkeypatch.setattr(stream, "decode", slow)
    batches = [paths[:1], paths[1:19], paths[19:]]
    with decoded_batches(batches, 6, threads=2, skip=False) as found:
        next(found)
        assert both_begun.wait(10)
        threading.Timer(0.2, left.set).start()  # after the block is left
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("count", "threads", "expected"), [(256, 16, 16), (64, 64, 1), (3, 8, 1), (5000, 2, 32)]
)
def test_all_threads_have_files_to_decode(count: int, threads: int, expected: int) -> None:
    assert files_at_a_time(count, threads) == expected
