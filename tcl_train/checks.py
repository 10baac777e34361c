"""Checks of single values. Each returns the value in its proper type or raises an error that
names the argument, the value, and what would be right."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def integer(name: str, value: Any, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number >= {at_least}, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, got {value}")
    return value


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite real number within the bounds."""
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">", above), (">=", at_least), ("<", below), ("<=", at_most))
        if bound is not None
    ]
    wanted = f"{name} must be a finite number {' and '.join(bounds)}".rstrip()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{wanted}, got {value!r}")
    inside = (
        abs(value) <= sys.float_info.max  # neither NaN nor infinite, nor a whole number too large
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not inside:
        raise ValueError(f"{wanted}, got {value}")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}")
    return value


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
    return value


def several(name: str, value: Any, *, at_least: int = 1, what: str = "values") -> list[Any]:
    """A list of at least this many values; the values themselves are not checked. `what` describes
    them."""
    wanted = f"{name} must be a list [...] of {at_least} or more {what}"
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{wanted}, got {value!r}")
    values = list(value)
    if len(values) < at_least:
        raise ValueError(f"{wanted}, got {values}")
    return values


def interval(name: str, value: Any, *, at_least: float, at_most: float) -> tuple[float, float]:
    """Two numbers, low <= high, both within the bounds."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be two numbers [low, high], got {value!r}") from None
    low = number(f"{name}[0]", low, at_least=at_least, at_most=at_most)
    high = number(f"{name}[1]", high, at_least=low, at_most=at_most)
    return low, high


def probability(name: str, value: Any) -> float | tuple[float, ...]:
    """A number in [0, 1], or several: one per view."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0:
        return tuple(number(f"{name}[{i}]", v, at_least=0, at_most=1) for i, v in enumerate(value))
    return number(name, value, at_least=0, at_most=1)


def all_of(*checks: Callable[[], object]) -> None:
    """Carries out all of them, and then raises what they complained of: the error of the only one,
    or a ValueError that says everything."""
    errors: list[Exception] = []
    for check in checks:
        try:
            check()
        except (ValueError, TypeError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ValueError("; ".join(dict.fromkeys(map(str, errors))))
