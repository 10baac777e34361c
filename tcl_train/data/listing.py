"""Which image files a folder holds, and in which classes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import torch
from PIL import Image, ImageFile
from torch import Tensor

from tcl_train.errors import RequestError, few

log = logging.getLogger(__name__)

SAMPLE = 64  # files whose content is a part of a listing's key
SET_ASIDE = ("__MACOSX",)  # folders that archivers add


class File(NamedTuple):
    """Paths are plain strings: there may be a million of them. A file that cannot be looked at (a
    link to nothing) has size and times 0. place: which file on which disk (device and inode).
    """

    path: str
    bytes: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order, with a class index for each where they are labelled."""

    folder: Path
    files: list[File]
    classes: tuple[str, ...]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    @property
    def names(self) -> list[str]:
        """Relative to the folder."""
        start = len(os.path.join(self.folder, ""))
        return [file.path[start:] for file in self.files]

    @property
    def labels_N(self) -> Tensor | None:
        return torch.tensor(self.labels) if self.classes else None

    def chosen(self, indices: Sequence[int]) -> Listing:
        """The files at these places, with the same classes."""
        labels = [self.labels[i] for i in indices] if self.classes else []
        return replace(self, files=[self.files[i] for i in indices], labels=labels)

    def key(self, *about: object) -> str:
        """A name for what is cached of these files: another one where a folder, name, size or time
        differs, or the content of one of a sample of files."""
        lines = [" ".join(map(str, about)), os.path.realpath(self.folder)]
        lines += [
            f"{name}\0{f.bytes}\0{f.modified_ns}\0{f.changed_ns}\0{f.place}"
            for name, f in zip(self.names, self.files, strict=True)
        ]
        return _digest([*lines, *_contents(self.paths)])


def even_sample(count: int, most: int) -> list[int]:
    """At most so many places among `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _contents(paths: Sequence[str]) -> Iterator[str]:
    for i in even_sample(len(paths), SAMPLE):
        try:
            yield hashlib.blake2b(Path(paths[i]).read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            yield str(error.errno)


def digest_of_contents(names: Sequence[str], contents: Sequence[str]) -> str:
    """Names all files by their content, wherever the folder lies. (`files:`, of earlier versions,
    was of a sample.)"""
    pairs = zip(names, contents, strict=True)
    return f"contents:{_digest(f'{name}{chr(0)}{content}' for name, content in pairs)}"


def _digest(lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


# ------------------------------------------------------------------ reading folders


def labelled(folder: Path) -> Listing:
    """FOLDER/CLASS/**, the classes in the order of their names. Empty class folders are set aside
    with a warning. Raises RequestError where there is no class with an image."""
    names = class_folders(folder)
    files: list[File] = []
    labels: list[int] = []
    classes: list[str] = []
    empty: list[str] = []
    for name in names:
        found = _images_below(folder / name)
        if not found:
            empty.append(name)
            continue
        files += found
        labels += [len(classes)] * len(found)
        classes.append(name)
    if not classes:
        raise RequestError(
            f"{folder}: no class folders with images; it should hold a folder of images for each "
            "class"
        )
    if empty:
        log.warning("%s: set aside, since they hold no images: %s", folder, few(empty))
    loose = sum(_is_image(entry) and not _is_dir(entry) for entry in _entries(folder))
    if loose:
        log.warning("%s: %d images are in no class folder and are left out", folder, loose)
    _report_folders_met_twice(files)
    return Listing(folder, files, tuple(classes), labels)


def _report_folders_met_twice(files: Sequence[File]) -> None:
    met: dict[str, str] = {}
    for folder in dict.fromkeys(os.path.dirname(file.path) for file in files):
        first = met.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            log.warning(
                "%s and %s are the same folder: its images count twice; delete the link",
                first,
                folder,
            )


def unlabelled(folder: Path) -> Listing:
    """FOLDER/**. Raises RequestError where there is no image."""
    files = _images_below(folder)
    if not files:
        raise RequestError(
            f"{folder}: no images; put images there (any type that Pillow reads), or train/CLASS/ "
            "and test/CLASS/ with images"
        )
    return Listing(folder, files, (), [])


def class_folders(folder: Path) -> list[str]:
    """The names of the folders that may be classes. Raises RequestError for a link to nothing."""
    names = []
    for entry in _entries(folder):
        if _is_dir(entry):
            names.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise RequestError(
                f"{entry.path}: a link to {os.readlink(entry.path)}, which does not exist; mend "
                "the link or delete it"
            )
    return names


def holds_images(folder: Path) -> bool:
    """Whether there is an image anywhere below the folder."""
    return next(_walk(str(folder), seen=set()), None) is not None


def _images_below(folder: Path) -> list[File]:
    return list(_walk(str(folder), seen=set()))


def _walk(folder: str, seen: set[str]) -> Iterator[File]:
    """The image files below a folder, sorted by name. Hidden files, other types and the folders
    that archivers add are left out."""
    real = os.path.realpath(folder)
    if real in seen:  # links may lead in circles
        return
    seen.add(real)
    for entry in _entries(folder):
        if _is_dir(entry):
            yield from _walk(entry.path, seen)
        elif _is_image(entry):
            try:
                stat = entry.stat()
            except OSError:
                yield File(entry.path)  # reading it says what is wrong
                continue
            if S_ISREG(stat.st_mode):  # and not a pipe, which would be waited for
                place = stat.st_dev, stat.st_ino
                yield File(entry.path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, place)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in _endings()


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [e for e in entries if e.name[0] != "." and e.name not in SET_ASIDE]
    except OSError as error:
        raise RequestError(
            f"{folder}: cannot be read ({error.strerror}); change its permissions or delete it"
        ) from error
    return sorted(shown, key=lambda entry: entry.name)


NOT_DECODED = ("MPEG", "EPS")  # Pillow knows them by their first bytes; EPS needs Ghostscript


@cache
def _endings() -> frozenset[str]:
    """Of the types that Pillow decodes. It registers more: types that it only writes, and stubs
    for which other packages must supply the decoder."""
    endings = Image.registered_extensions()
    return frozenset(
        ending for ending, kind in endings.items() if kind not in NOT_DECODED and _decodes(kind)
    )


def _decodes(kind: str) -> bool:
    reader = Image.OPEN.get(kind, (None,))[0]
    return reader is not None and not (
        isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
    )
