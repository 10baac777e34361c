"""What is kept of image folders between runs: decoded images, and facts such as their mean.

A name stands for one listing of files (see `Listing.key`) at one size. A file is complete or
absent, so that concurrent runs can share the folder; what cannot be written is not needed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tcl_train.runtime.files import write_atomically

log = logging.getLogger(__name__)

SECONDS_OF_A_TEMPORARY_FILE = 24 * 3600  # older ones are of runs that were killed


class Cache:
    """Arrays and facts by name, at most `limit_gb` of them; the files used longest ago go first."""

    def __init__(self, folder: Path, limit_gb: float) -> None:
        self.folder = folder
        self.limit = limit_gb * 2**30

    def load_array(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """None where it is absent or damaged. The file is mapped and read as images are used; what
        is written to the array stays in memory."""
        path = self._array(name)
        try:
            array = np.load(path, mmap_mode="c")
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != shape or array.dtype != np.uint8:
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return array

    def save_array(self, name: str, array: np.ndarray) -> None:
        if array.nbytes <= self.limit:
            self._write(self._array(name), lambda path: _save(path, array))

    def load_facts(self, name: str) -> dict[str, Any]:
        """Empty where there are none or they are damaged."""
        try:
            facts = json.loads(self._facts(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def save_facts(self, name: str, facts: dict[str, Any]) -> None:
        text = json.dumps(facts)
        self._write(self._facts(name), lambda path: path.write_text(text, encoding="utf-8"))

    def _array(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _facts(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
        except OSError as error:
            log.warning(
                "%s: not cached (%s); the images will be read again", path, error.strerror or error
            )
        self._evict(keep=path)

    def _evict(self, keep: Path) -> None:
        """Removes the files used longest ago until the rest is within the limit."""
        with suppress(OSError):
            files = []
            for entry in os.scandir(self.folder):
                with suppress(OSError):  # another run may remove it meanwhile
                    stat = entry.stat()
                    if entry.name.endswith((".npy", ".json")):
                        files.append((stat.st_mtime, stat.st_size, Path(entry.path)))
                    elif entry.name[0] == "." and _long_ago(stat.st_mtime):
                        os.unlink(entry.path)
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.limit:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _long_ago(modified: float) -> bool:
    return time.time() - modified > SECONDS_OF_A_TEMPORARY_FILE
