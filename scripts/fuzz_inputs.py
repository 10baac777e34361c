"""What the commands of scripts/fuzz_commands.py read: folders of images and directories of runs,
whole and damaged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

TEXT = b"this is a text, and nothing else\n"


@dataclass(frozen=True)
class Damage:
    """What happens to one file: `how` is one of HOW; `place`, from 0 to 1, says where in it."""

    file: float
    how: str
    place: float = 0.5
    value: str = ""

    def apply(self, folder: Path, pattern: str) -> str:
        """Damages one of the files below the folder and says so; says nothing if there is none."""
        paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if not paths:
            return ""
        path = paths[min(int(self.file * len(paths)), len(paths) - 1)]
        HOW[self.how](path, self.place, self.value)
        return f"{path.relative_to(folder)}: {self.how} {self.place:.3f} {self.value!r}"


def _cut(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    content = path.read_bytes()
    path.write_bytes(content[: int(place * len(content))])


def _flip(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    content = bytearray(path.read_bytes())
    if content:
        bit = int(place * 8 * len(content)) % (8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)


def _zeros(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    content = path.read_bytes()
    begin = int(place * len(content))
    path.write_bytes(content[:begin] + bytes(len(content) - begin))


def _longer(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.write_bytes(path.read_bytes() + TEXT)


def _text(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.write_bytes(TEXT)


def _removed(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.unlink()


def _folder(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.unlink()
    path.mkdir()


def _link(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.unlink()
    path.symlink_to(path.name if place < 0.5 else "nowhere")


def _renamed(path: Path, place: float, value: str) -> None:  # noqa: ARG001
    path.rename(path.with_suffix(".jpg" if place < 0.5 else ".TIFF"))


def _line(path: Path, place: float, value: str) -> None:
    """Another value in one line of a text; no value: the line goes."""
    lines = path.read_text(errors="surrogateescape").splitlines()
    if lines:
        at = int(place * len(lines)) % len(lines)
        key, colon, _ = lines[at].partition(":")
        lines[at : at + 1] = [f"{key}{colon} {value}"] if value else []
        path.write_text("\n".join(lines) + "\n", errors="surrogateescape")


HOW = {
    "cut": _cut,
    "flip": _flip,
    "zeros": _zeros,
    "longer": _longer,
    "text": _text,
    "removed": _removed,
    "folder": _folder,
    "link": _link,
    "renamed": _renamed,
    "line": _line,
}


# ------------------------------------------------------------------ images

LAYOUTS: Mapping[str, Mapping[str, int]] = {
    "split": {"train/blue": 12, "train/red": 12, "test/blue": 4, "test/red": 4},
    "val": {"train/blue": 12, "train/red": 12, "val/blue": 4, "val/red": 4},
    "classes": {"blue": 15, "red": 15},
    "flat": {".": 30},
    "one class": {"train/blue": 24, "test/blue": 4},
    "empty class": {"train/blue": 12, "train/red": 12, "train/void": 0, "test/blue": 4},
    "class only in test": {"train/blue": 24, "test/blue": 4, "test/red": 4},
    "train only": {"train/blue": 12, "train/red": 12},
    "test only": {"test/blue": 12, "test/red": 12},
    "nested": {"train/blue/a": 12, "train/red/b": 12, "test/blue/a": 4, "test/red/b": 4},
    "few": {"train/blue": 2, "train/red": 1, "test/blue": 1, "test/red": 1},
    "empty": {},
    "empty split": {"train": 0, "test": 0},
}


@dataclass(frozen=True)
class Images:
    """A folder of small images."""

    layout: str = "split"
    side: int = 8
    mode: str = "RGB"
    suffix: str = "png"
    renamed_class: str = ""  # in place of `blue`
    damages: tuple[Damage, ...] = ()

    def make(self, root: Path) -> list[str]:
        """Writes the folder; says what was damaged."""
        root.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number, (name, count) in enumerate(LAYOUTS[self.layout].items()):
            if self.renamed_class:
                name = name.replace("blue", self.renamed_class)
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels_HWC = rng.integers(0, 60, (self.side, self.side, 3), dtype=np.uint8)
                pixels_HWC[..., number % 2] += 180
                image = Image.fromarray(pixels_HWC).convert(self.mode)
                image.save(folder / f"{i}.{self.suffix}")
        return [said for damage in self.damages if (said := damage.apply(root, "*.*"))]


# ------------------------------------------------------------------ runs


@dataclass(frozen=True)
class Stored:
    """A run directory from before. `run` names one of those made at the start."""

    run: str
    damages: tuple[tuple[str, Damage], ...] = ()  # with the pattern of the files

    def make(self, place: Path, stock: Path) -> list[str]:
        """Writes the directory; says what was damaged."""
        if self.run == "empty":
            place.mkdir()
            return []
        shutil.copytree(stock / self.run, place)
        return [said for pattern, d in self.damages if (said := d.apply(place, pattern))]
