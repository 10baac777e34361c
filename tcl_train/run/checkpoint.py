"""Saving atomically, restoring strictly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tcl_train.errors import RequestError
from tcl_train.runtime.files import write_atomically

FORMAT = 1


class Checkpoints:
    """The checkpoints of a run: `last.pt`, and with `keep` > 1 the ones of the epochs before.

    every: epochs between two of them. keep: how many of the newest stay, `last.pt` among them;
    "all" keeps the one of every epoch that was written.
    """

    def __init__(self, folder: Path, *, every: int, keep: int | str) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    def due(self, epochs_done: int) -> bool:
        return epochs_done % self.every == 0

    def save(self, state: dict[str, Any], *, epochs_done: int | None = None) -> None:
        """Writes `last.pt`; at the end of an epoch also what `keep` asks for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.last, lambda path: torch.save({"format": FORMAT, **state}, path))
        if epochs_done is None or self.keep == 1:
            return
        named = self.folder / f"epoch-{epochs_done:05d}.pt"
        named.unlink(missing_ok=True)
        try:
            os.link(self.last, named)
        except OSError:  # a file system without hard links
            write_atomically(named, lambda path: shutil.copyfile(self.last, path))
        if self.keep != "all":
            assert isinstance(self.keep, int)
            for old in sorted(self.folder.glob("epoch-*.pt"))[: -self.keep]:
                old.unlink()


class UnwrittenCheckpoints(Checkpoints):
    """For a process that has another one write them."""

    def save(self, state: dict[str, Any], *, epochs_done: int | None = None) -> None:
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
    lacking = [part for part in needed if part not in state]
    if lacking:
        raise RequestError(f"{path}: lacks {', '.join(lacking)}; take another checkpoint")
    return state
