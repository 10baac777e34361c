"""The words of commands that compose no config: `tcl-report DIR ... out=FOLDER watch=true`.

Each command states its keys, and gets their values checked and in their types.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tcl_train import checks
from tcl_train.errors import RequestError

FEATURES = ("encoder", "projector")  # of tcl-eval and tcl-embed: whose output they are


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a command.

    read: from what was typed to the value; raises ValueError with what would be right, as in "must
    be true or false". needed: a command without it is refused, with `example` as what to give.
    """

    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    needed: bool = False
    example: str = ""


def read_words(
    command: str, words: Sequence[str], keys: Mapping[str, Key], *, places: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The value of every key, and the words that are no key=value, for a command that takes some
    (`places`).

    Raises:
        RequestError: a word is unknown, a value is wrong, or a needed key is not there.
    """
    values: dict[str, Any] = {}
    others = []
    for word in words:
        key, equals, text = word.partition("=")
        if places and (not equals or (key not in keys and "/" in key)):
            if word.startswith("-"):
                raise RequestError(f"{word}: no such flag; see {command} --help")
            others.append(word)
        elif key not in keys:
            raise RequestError(f"{word}: {_unknown(key, keys)}")
        elif key in values:
            raise RequestError(f"{word}: {key} is given twice; give it once")
        else:
            values[key] = _read(word, keys[key], text)
    missing = [name for name, known in keys.items() if known.needed and name not in values]
    if missing:
        example = " ".join(
            f"{name}={known.example}" for name, known in keys.items() if known.needed
        )
        raise RequestError(f"{missing[0]} is not set; give it, as in {command} {example}")
    return {name: values.get(name, known.default) for name, known in keys.items()}, others


def _read(word: str, key: Key, text: str) -> Any:
    if not text:  # a path of no letters would be the working directory
        raise RequestError(f"{word}: nothing is given; give a value, or leave it out")
    try:
        return key.read(text)
    except ValueError as error:
        raise RequestError(f"{word}: {error}") from error


def _unknown(key: str, keys: Mapping[str, Key]) -> str:
    near = difflib.get_close_matches(key, keys, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no such key; {meant}there are {', '.join(keys)}"


def help_of(keys: Mapping[str, Key]) -> str:
    """A line for each key, for a command's help."""
    width = max(map(len, keys)) + 1
    return "\n".join(f"  {name + '=':<{width}}  {key.help}" for name, key in keys.items())


# ------------------------------------------------------------------ readers of values


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def integer(*, at_least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        wanted = f"must be a whole number >= {at_least}"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(wanted) from None
        if value < at_least:
            raise ValueError(wanted)
        return value

    return read


def number(**bounds: float) -> Callable[[str], float]:
    """The bounds are those of :func:`tcl_train.checks.number`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number") from None
        try:
            return checks.number("it", value, **bounds)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("it ").partition(", got")[0]) from None

    return read


def one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return read
