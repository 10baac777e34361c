"""Words of a command line, written so that they are read back as they were meant.

Hydra's grammar reads a plain value as a number, a list or nothing at all where it looks like one,
and a shell splits it; a folder may have any name.
"""

from __future__ import annotations

import re
import shlex

# What the grammar reads as the text that it is: it begins as no number does.
_PLAIN = re.compile(r"(?:/|\./|\.\./|[A-Za-z_])[\w./-]*", re.ASCII)
_READ_IN_DOUBLE_QUOTES = set('$`"\\!')
_CONSTANTS = ("null", "true", "false", "inf", "nan")


def quoted(value: object) -> str:
    """A value that Hydra's grammar takes as it is, whatever signs it has."""
    # A backslash means itself, except before a quote and at the end.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + (r"\'" if m[2] else ""), str(value))
    return f"'{escaped}'"


def typed(key: str, value: object) -> str:
    """`key=value` as a user can paste it into a shell."""
    text = str(value)
    plain = _PLAIN.fullmatch(text) and text.lower() not in _CONSTANTS
    word = f"{key}={text if plain else quoted(text)}"
    return shlex.quote(word) if plain or set(word) & _READ_IN_DOUBLE_QUOTES else f'"{word}"'
