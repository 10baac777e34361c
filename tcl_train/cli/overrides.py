"""The words of a command line as Hydra overrides: reading them, and writing them so that they are
read back as they were meant.

Hydra's grammar reads a plain value as a number, a list or nothing at all where it looks like one,
and a shell splits it; a folder may have any name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tcl_train.errors import RequestError

# What the grammar reads as the text that it is: it begins as no number does.
_PLAIN = re.compile(r"(?:/|\./|\.\./|[A-Za-z_])[\w./-]*", re.ASCII)
_READ_IN_DOUBLE_QUOTES = set('$`"\\!')
_CONSTANTS = ("null", "true", "false", "inf", "nan")

FOLDER_KEYS = ("resume", "hydra.run.dir", "hydra.sweep.dir", "dataset.root", "data.cache_dir")
SEARCHPATH = "hydra.searchpath"
TRUST = "trust"
_UNQUOTED = re.compile(r"([A-Za-z_][\w./@]*)=([^\[\]{}'\",]+)")


# ------------------------------------------------------------------ writing


def quoted(value: object) -> str:
    """A value that Hydra's grammar takes as the text that it is."""
    # A backslash means itself, except before a quote and at the end.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), str(value))
    return f"'{escaped}'"


def shell_word(key: str, value: object) -> str:
    """`key=value` as a user can paste it into a shell."""
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in _CONSTANTS
    word = f"{key}={text if plain else quoted(text)}"
    return shlex.quote(word) if plain or set(word) & _READ_IN_DOUBLE_QUOTES else f'"{word}"'


def searchpath_override(folders: Iterable[str]) -> list[str]:
    """The override that has Hydra look for configs in these folders too; none for none."""
    listed = ",".join(quoted(folder) for folder in folders)
    return [f"{SEARCHPATH}=[{listed}]"] if listed else []


# ------------------------------------------------------------------ reading


def parse_overrides(overrides: Sequence[str], *, config_loader: Any = None) -> list[Override]:
    """Reads overrides.

    Args:
        overrides: the words of a command line, without flags.
        config_loader: whom to ask for a group's choices, where `loss=glob(*)` is to be expanded.

    Raises:
        RequestError: a word is none.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    parsed = []
    for override in quote_overrides(overrides):
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            first = str(error).splitlines()[0]
            raise RequestError(
                f"{override}: cannot be read ({first}); write key=value or group=choice"
            ) from error
    return parsed


def quote_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides, with quotes round values that Hydra's grammar cannot read otherwise, such as a
    folder's name with = or ~ in it, or would read as a number, such as a folder named 2024; and
    folders of configs by their absolute paths, since a run may be resumed from elsewhere.

    Raises:
        RequestError: a folder of configs is not there.
    """
    parser = OverridesParser.create()
    result = []
    for override in overrides:
        try:
            parsed = parser.parse_overrides([override])[0]
            readable = parsed.key_or_group not in FOLDER_KEYS or not isinstance(
                parsed.value(), bool | int | float
            )
        except HydraException:
            readable = False
        if readable and parsed.key_or_group == SEARCHPATH:
            result += searchpath_override(_absolute(parsed))
            continue
        match = None if readable else _UNQUOTED.fullmatch(override)
        result.append(override if match is None else f"{match[1]}={quoted(match[2])}")
    return result


def _absolute(searchpath: Override) -> list[str]:
    folders = searchpath.value()
    if not isinstance(folders, list):
        raise RequestError(
            f"{searchpath.input_line}: give a list of folders, as in {SEARCHPATH}=[my_configs]"
        )
    return [_absolute_folder(str(folder)) for folder in folders]


def _absolute_folder(place: str) -> str:
    scheme, separator, rest = place.rpartition("://")
    if separator and scheme != "file":
        return place  # of an installed package, pkg://
    folder = Path(rest).expanduser().absolute()
    if not folder.is_dir():
        raise RequestError(f"{SEARCHPATH}: there is no folder {folder}; give a folder of configs")
    return f"file://{folder}"


def trusted(overrides: Sequence[str]) -> list[str]:
    """The packages of `trust=PACKAGE` or `trust=[PACKAGE, ...]`."""
    packages: list[str] = []
    for override in parse_overrides([o for o in overrides if o.startswith(f"{TRUST}=")]):
        value = override.value()
        packages = [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return packages
