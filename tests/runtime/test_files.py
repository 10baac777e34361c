"""Files are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tcl_train.runtime.files import write_atomically, write_json, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_by_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert names(tmp_path) == {"file"}


def test_until_all_is_written_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen: list[str] = []

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        seen.append(path.read_text())
        temporary.write_text("new")

    write_atomically(path, write)
    assert seen == ["old"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no links"])
def test_a_new_file_is_complete_once_it_is_there_and_never_replaced(
    tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    fsync, link = os.fsync, os.link

    def watched(file: int) -> None:
        synced.append(path.exists())
        fsync(file)

    def link_if_there_are_any(source: Path, target: Path) -> None:
        if not linked:
            raise PermissionError(errno.EPERM, "no links here")
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "link", link_if_there_are_any)
    write_text(path, "first", new=True)
    assert synced == [False]  # all of it was written before it was there
    with pytest.raises(FileExistsError):
        write_text(path, "second", new=True)
    assert path.read_text() == "first"
    assert names(tmp_path) == {"file"}


def test_json_is_indented_and_ends_with_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"ä": [1, 2.5, None]})
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ä": [1, 2.5, None]}
    assert text.startswith("{\n  ")
    assert text.endswith("}\n")
