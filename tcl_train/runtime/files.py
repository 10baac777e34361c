"""Atomic writing: a file is complete or absent."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcl_train.errors import RequestError, printable

PROBED_BYTES = 2**16


def write_atomically(path: Path, write: Callable[[Path], Any], *, new: bool = False) -> None:
    """`write` makes a temporary file beside `path`, which is then renamed to it.

    new: `path` must not exist yet; of several writers at the same time only one succeeds.

    Raises:
        FileExistsError: `path` must be new and exists.
        OSError: names `path` and the reason, also where `write` raised another error because the
            disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if new:
            _rename_to_new(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except RuntimeError as error:  # torch.save's, when it cannot write
        reason = _why_not_written(temporary)
        if reason is None:
            raise
        raise OSError(reason, os.strerror(reason), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _rename_to_new(source: Path, target: Path) -> None:
    """Raises FileExistsError."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.open("x").close()
        source.replace(target)


def _why_not_written(temporary: Path) -> int | None:
    """The error of writing a little more to the file; None where that works."""
    try:
        with temporary.open("ab") as file:
            file.write(b"0" * PROBED_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


def check_output(key: str, *paths: Path, overwrite: bool) -> None:
    """For files that a command is to write, before it begins.

    Raises:
        RequestError: one is there already and `overwrite` is not set, or cannot be written there.
    """
    for path in paths:
        given = f"{key}={printable(path)}"
        if path.is_dir():
            raise RequestError(f"{given}: is a folder; give a file")
        if not path.parent.is_dir():
            raise RequestError(f"{given}: there is no folder {path.parent}; make it first")
        if path.exists() and not overwrite:
            raise RequestError(
                f"{given}: is already there; give another file, or add overwrite=true"
            )


def free_name(path: Path) -> Path:
    """The first of NAME.json, NAME-2.json, ... that is not there."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def make_folder(key: str, folder: Path) -> None:
    """With those above it. Raises RequestError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{key}={printable(folder)}: cannot be written ({error.strerror}); choose another one"
        ) from error


def copy_file(source: Path, target: Path) -> None:
    """Another name for the same file, where the file system has such."""

    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, path)

    write_atomically(target, write)


def write_text(path: Path, text: str, *, new: bool = False) -> None:
    """:func:`write_atomically` of a text in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), new=new)


def write_json(path: Path, content: Any) -> None:
    """:func:`write_atomically` of indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")
