"""What is kept between runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from tcl_train.data.cache import Cache

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)


def sizes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new", 1)
    cache.save_array("a", ARRAY)
    cache.save_facts("a", {"mean": [0.5]})
    loaded = Cache(tmp_path / "new", 1).load_array("a", ARRAY.shape)
    np.testing.assert_array_equal(loaded, ARRAY)
    assert cache.load_facts("a") == {"mean": [0.5]}
    assert cache.load_facts("b") == {}
    assert cache.load_array("b", ARRAY.shape) is None
    assert cache.load_array("a", (1, 3, 2, 2)) is None


def test_the_files_used_longest_ago_go_first(tmp_path: Path) -> None:
    size = 128 + ARRAY.nbytes  # a header, and the values
    cache = Cache(tmp_path, 2.5 * size / 2**30)
    for age, name in ((300, "old"), (200, "older but used")):
        cache.save_array(name, ARRAY)
        os.utime(tmp_path / f"{name}.npy", (time.time() - age,) * 2)
    os.utime(tmp_path / "older but used.npy", (time.time() - 400,) * 2)
    assert cache.load_array("older but used", ARRAY.shape) is not None
    cache.save_array("new", ARRAY)
    assert sizes(tmp_path) == ["new.npy", "older but used.npy"]


def test_what_exceeds_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1e-9)
    cache.save_array("a", ARRAY)
    assert sizes(tmp_path) == []


def test_temporary_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    for name, age in ((".a.npy.1", 48 * 3600), (".b.npy.2", 60)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    Cache(tmp_path, 1).save_array("c", ARRAY)
    assert sizes(tmp_path) == [".b.npy.2", "c.npy"]


def test_an_array_that_is_in_use_stays_readable_when_it_is_removed(tmp_path: Path) -> None:
    """Another run may remove it."""
    cache = Cache(tmp_path, 1)
    cache.save_array("a", ARRAY)
    loaded = cache.load_array("a", ARRAY.shape)
    (tmp_path / "a.npy").unlink()
    np.testing.assert_array_equal(loaded, ARRAY)
