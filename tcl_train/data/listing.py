"""Which image files a folder holds, and in which classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from tcl_train.errors import RequestError


class File(NamedTuple):
    """Paths are plain strings: there may be a million of them."""

    path: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order, with a class index for each where they are labelled."""

    folder: Path
    files: list[File]
    classes: tuple[str, ...]
    labels: list[int]

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    @property
    def labels_N(self) -> Tensor | None:
        return torch.tensor(self.labels) if self.classes else None

    def digest(self, *about: object) -> str:
        """Changes when a file's name, size or time does, or what is asked about them."""
        digest = hashlib.blake2b(" ".join(map(str, about)).encode(), digest_size=16)
        start = len(os.path.join(self.folder, ""))
        lines = (f"{f.path[start:]}\0{f.bytes}\0{f.changed_ns}\n" for f in self.files)
        digest.update("".join(lines).encode(errors="surrogateescape"))
        return digest.hexdigest()


def labelled(folder: Path) -> Listing:
    """FOLDER/CLASS/**. Raises RequestError where there is no class or one without images."""
    classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    if not classes:
        raise RequestError(
            f"{folder}: no class folders; it should hold a folder of images for each class"
        )
    files: list[File] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_below(folder / name)
        if not found:
            raise RequestError(f"{folder / name}: no images; put images there or delete the folder")
        files += found
        labels += [label] * len(found)
    return Listing(folder, files, tuple(classes), labels)


def unlabelled(folder: Path) -> Listing:
    """FOLDER/**. Raises RequestError where there is no image."""
    files = _images_below(folder)
    if not files:
        raise RequestError(
            f"{folder}: no images; put images there (any type that Pillow reads), or train/CLASS/ "
            "and test/CLASS/ with images"
        )
    return Listing(folder, files, (), [])


def _images_below(folder: Path) -> list[File]:
    """The image files below a folder, sorted by name; hidden ones and other files are passed."""
    return list(_walk(str(folder), seen=set()))


def _walk(folder: str, seen: set[str]) -> Iterator[File]:
    real = os.path.realpath(folder)
    if real in seen:  # links may lead in circles
        return
    seen.add(real)
    path = folder
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = entry.path
                if entry.name[0] == ".":
                    continue
                if entry.is_dir():
                    yield from _walk(path, seen)
                elif os.path.splitext(entry.name)[1].lower() in _endings():
                    stat = entry.stat()
                    yield File(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}); replace the file or delete it"
        ) from error


@cache
def _endings() -> frozenset[str]:
    """Of the types that Pillow reads (it writes some that it cannot read)."""
    formats = Image.registered_extensions()
    return frozenset(ending for ending, name in formats.items() if name in Image.OPEN)
