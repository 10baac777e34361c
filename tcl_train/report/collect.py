"""Finding the runs below some folders, and reading again only what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tcl_train.errors import RequestError, printable
from tcl_train.report.run_files import EVALUATIONS, PREDICTIONS, Run, Unusable, read_run, shown_path

# Of a run or of tools, many files and never a run among them.
NOT_ENTERED = {"checkpoints", "tensorboard", ".git", ".hydra", "__pycache__"}
FILES = ("config.yaml", "result.json", "metrics.jsonl", PREDICTIONS)

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Apart:
    """Something that stands in no table, and why."""

    name: str
    reason: str


@dataclass
class Collection:
    """What lies below the folders. finished and unfinished runs by their paths; apart: what cannot
    be used; notes: what is used but not whole."""

    folders: list[str]
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)
    notes: list[Apart] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.finished or self.unfinished or self.apart)


class Collector:
    """Collects the runs below folders, again and again where wanted.

    Raises:
        RequestError: a folder is not there or is none.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = [Path(folder).expanduser() for folder in folders]
        self._known: dict[Path, tuple[Stamp, Run | Apart | None]] = {}
        for folder in self.folders:
            name = printable(folder)
            if not folder.exists():
                raise RequestError(f"{name}: no such folder; give one that holds runs")
            if not folder.is_dir():
                raise RequestError(f"{name}: is a file; give a folder that holds runs")

    def stamps(self) -> dict[Path, Stamp]:
        """The places that may hold a run, with the times and sizes of their files: equal twice
        where nothing has changed in between."""
        return {path: _stamp(path) for path in self._places([])}

    def collect(self) -> Collection:
        """All runs, those read before from memory where their files are the same."""
        closed: list[Apart] = []
        collection = Collection([shown_path(folder) for folder in self.folders])
        known = {}
        for path in self._places(closed):
            stamp = _stamp(path)
            before = self._known.get(path)
            found = before[1] if before and before[0] == stamp else _read(path)
            known[path] = stamp, found
            if isinstance(found, Apart):
                collection.apart.append(found)
            elif found is not None:
                _put(collection, found)
        self._known = known
        collection.apart += closed
        return collection

    def _places(self, closed: list[Apart]) -> Iterator[Path]:
        """Folders with a file of a run, each once, however it is reached. Those that cannot be
        listed are put to `closed`."""

        def note(error: OSError) -> None:
            name = shown_path(Path(os.fsdecode(error.filename or "")))
            closed.append(Apart(name, f"cannot be listed ({error.strerror})"))

        seen = set()
        for folder in self.folders:
            for place, folders, files in os.walk(folder, onerror=note, followlinks=True):
                real = os.path.realpath(place)
                if real in seen:  # a link in a circle, or a folder given twice
                    folders.clear()
                    continue
                seen.add(real)
                folders[:] = sorted(set(folders) - NOT_ENTERED)
                if not {*FILES}.isdisjoint(files):
                    yield Path(place)


def _put(collection: Collection, run: Run) -> None:
    (collection.unfinished if run.result is None else collection.finished).append(run)
    collection.notes += [Apart(run.name, note) for note in run.notes]


def _read(path: Path) -> Run | Apart | None:
    try:
        return read_run(path)
    except Unusable as error:
        return Apart(shown_path(path), str(error))


def _stamp(path: Path) -> Stamp:
    found = []
    evaluations = path / EVALUATIONS
    names = [*FILES, *(f"{EVALUATIONS}/{p.name}" for p in sorted(evaluations.glob("*.json")))]
    for name in names:
        try:
            status = (path / name).stat()
        except OSError:  # not there, or gone meanwhile
            continue
        found.append((name, status.st_mtime_ns, status.st_size))
    return tuple(found)
