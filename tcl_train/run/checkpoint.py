"""Saving atomically, restoring strictly."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from tcl_train.errors import RequestError
from tcl_train.runtime.files import copy_file, write_atomically

log = logging.getLogger(__name__)

FORMAT = 1
CHECKSUM = "checksum"
LAST, PREVIOUS, EPOCHS = "last.pt", "previous.pt", "epoch-*.pt"


class Checkpoints:
    """The checkpoints of a run: `last.pt`, the one before it (`previous.pt`, in case that `last.pt`
    is damaged) until the run is finished, and with `keep` > 1 those of the epochs before.

    every: epochs between two of them. keep: how many of the newest stay, `last.pt` among them;
    "all" keeps the one of every epoch that was written. every_minutes: writes one within an epoch,
    too, when so many minutes have passed; None: never. largest: of the numbers that the processes
    of the run give, see :meth:`tcl_train.runtime.processes.Processes.largest`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        keep: int | str,
        every_minutes: float | None = None,
        largest: Callable[[int], int] | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.every_minutes = every_minutes
        self._largest = largest
        self._saved_at = monotonic()

    @property
    def last(self) -> Path:
        return self.folder / LAST

    def due(self, epochs_done: int) -> bool:
        return epochs_done % self.every == 0

    def overdue(self) -> bool:
        """Whether `every_minutes` have passed in any of the processes, which must all ask at the
        same step."""
        if self.every_minutes is None:
            return False
        passed = monotonic() - self._saved_at >= 60 * self.every_minutes
        return bool(passed if self._largest is None else self._largest(int(passed)))

    def save(self, state: dict[str, Any], *, epochs_done: int | None = None) -> None:
        """Writes `last.pt`; at the end of an epoch also what `keep` asks for."""
        self._saved_at = monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"format": FORMAT, CHECKSUM: checksum(state), **state}
        if self.last.exists():
            copy_file(self.last, self.folder / PREVIOUS)
        write_atomically(self.last, lambda path: torch.save(state, path))
        if epochs_done is None or self.keep == 1:
            return
        copy_file(self.last, self.folder / f"epoch-{epochs_done:05d}.pt")
        if self.keep != "all":
            assert isinstance(self.keep, int)
            for old in sorted(self.folder.glob(EPOCHS))[: -self.keep]:
                old.unlink()

    def finish(self) -> None:
        """The run is finished: what is kept for an accident goes."""
        (self.folder / PREVIOUS).unlink(missing_ok=True)


def checksum(state: Any) -> str:
    """Of all tensors and values in nested dicts and lists."""
    digest = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            digest.update(str(len(value)).encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode(errors="surrogateescape"))

    add(state)
    return digest.hexdigest()


class UnwrittenCheckpoints(Checkpoints):
    """For a process that has another one write them."""

    def save(self, state: dict[str, Any], *, epochs_done: int | None = None) -> None:  # noqa: ARG002
        self._saved_at = monotonic()

    def finish(self) -> None:
        pass


def load(path: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """What :meth:`Checkpoints.save` wrote, on the CPU.

    Raises:
        RequestError: there is none, it is not a whole checkpoint of this program, or it lacks a
            part that is needed.
    """
    if not path.is_file():
        raise RequestError(f"{path}: there is no checkpoint; give the directory of a run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that others wrote
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise RequestError(
            f"{path}: not a whole checkpoint ({type(error).__name__}); take another one"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise RequestError(
            f"{path}: checkpoint format {found} is not the {FORMAT} that this version reads"
        )
    stored = state.pop(CHECKSUM, None)  # which those of earlier versions lack
    if stored is not None:
        found = checksum({key: value for key, value in state.items() if key != "format"})
        if found != stored:
            raise RequestError(f"{path}: damaged (its checksum is wrong); take another checkpoint")
    lacking = [part for part in needed if part not in state]
    if lacking:
        raise RequestError(f"{path}: lacks {', '.join(lacking)}; take another checkpoint")
    return state


def load_newest(folder: Path, needed: Iterable[str] = ()) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its file, with a warning where that is not
    `last.pt`; None where there is none at all.

    Raises:
        RequestError: about `last.pt`, where no other one is whole, either.
    """
    epochs = sorted(folder.glob(EPOCHS), reverse=True)
    paths = [folder / LAST, folder / PREVIOUS, *epochs]
    failure: RequestError | None = None
    for path in [path for path in paths if path.exists()]:
        try:
            state = load(path, needed)
        except RequestError as error:
            failure = failure or error
            continue
        if failure is not None:
            log.warning("%s; resuming from %s", failure, path)
        return path, state
    if failure is not None:
        raise failure
    return None
