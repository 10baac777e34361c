"""What differs between runs, by as few keys as tell them apart.

A setting is a key of the config with its value, flattened: `optimizer.momentum`. The choice of a
group stands under the group's name: `loss` is `tcl`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# They change neither what is trained nor how it is measured, or they are stated elsewhere.
NOT_COMPARED = {
    *("seed", "names", "overrides", "searchpath", "resume", "resume_extend", "trust"),
    *("log_every", "profile", "checkpoint", "device", "compile", "deterministic", "chunk_size"),
    *("monitor", "monitor_every", "random_encoder_baseline", "draws"),
    *("on_collapse", "on_nonfinite", "nonfinite_limit", "dataset.root"),
    *("data.workers", "data.memory_limit_gb", "data.cache_limit_gb", "data.cache_dir"),
    *("data.on_damaged",),
}
DATASET = "dataset"
NOT_SET = "not set"
NOT_TRAINED = "none"  # the loss and the method of an encoder from elsewhere
OF_METHOD = "of_method"  # the loss of a method that has its own, and names it
# Groups of configs in the order in which they name what was trained.
CHOICES = ("loss", "method", "encoder", "projector", "augment")

Settings = Mapping[str, str]


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """All settings of a run that may be compared, as texts."""
    found = {str(group): _text(choice) for group, choice in config["names"].items()}
    found |= {key: _text(value) for key, value in _flat(config) if key not in found}
    return found


def _flat(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{before}{name}"
        if key in NOT_COMPARED:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 1.0 and 1 are one setting
    return json.dumps(value, default=str, ensure_ascii=False)


@dataclass(frozen=True)
class Differences:
    """keys: the fewest that tell the settings apart, which name them. following: other keys that
    differ as well, though only together with those. common: what is the same in all."""

    keys: tuple[str, ...]
    following: tuple[str, ...]
    common: Settings


def find_differences(many: Sequence[Settings], typed: Counter[str]) -> Differences:
    """Of at least one run's settings. A key that some lack (which the chosen loss does not have, or
    an earlier version did not) differs only where those that have it differ.

    typed: how often each key was typed; typed ones name rather than those that follow from them.
    """
    values: dict[str, set[str]] = {}
    for settings in many:
        for key, value in settings.items():
            values.setdefault(key, set()).add(value)
    common = {key: next(iter(v)) for key, v in values.items() if len(v) == 1 and key != DATASET}
    varied = [key for key in values if len(values[key]) > 1 and key != DATASET]
    varied.sort(key=lambda key: _priority(key, typed))
    keys = _shortest(many, varied)
    named = set(keys)
    following = tuple(
        key
        for key in varied
        if key not in named and not key.endswith("_target_") and not _repeats(key, many)
    )
    shown = {k: v for k, v in common.items() if not k.endswith("_target_")}
    shown = {k: v for k, v in shown.items() if not _repeats(k, many)}
    return Differences(tuple(keys), following, shown)


def _priority(key: str, typed: Counter[str]) -> tuple[Any, ...]:
    choice = CHOICES.index(key) if key in CHOICES else len(CHOICES)
    return choice, key not in typed, key.count("."), key.endswith("_target_")


def _repeats(key: str, many: Sequence[Settings]) -> bool:
    """Whether `loss.tau` only says again what `tau` says."""
    short = key.rpartition(".")[2]
    if short == key:
        return False
    return any(short in s for s in many) and all(s.get(key) == s.get(short) for s in many)


def _shortest(many: Sequence[Settings], varied: Sequence[str]) -> list[str]:
    keys: list[str] = []
    count = 1
    for key in varied:
        with_it = _kinds(many, [*keys, key])
        if with_it > count:
            keys, count = [*keys, key], with_it
    for key in reversed(keys.copy()):
        others = [k for k in keys if k != key]
        if _kinds(many, others) == count and (key not in CHOICES or _implied(key, others, many)):
            keys = others
    return keys


def _implied(choice: str, others: Sequence[str], many: Sequence[Settings]) -> bool:
    """Whether another group's choice alone decides this one's, as a method's does the loss."""
    return any(
        _kinds(many, [other]) == _kinds(many, [other, choice])
        for other in others
        if other in CHOICES
    )


def _kinds(many: Sequence[Settings], keys: Sequence[str]) -> int:
    return len({tuple(settings.get(key) for key in keys) for settings in many})


def label_of(values: Mapping[str, str]) -> str:
    """A group's name from the keys that tell it apart: `tcl k1=5000`."""
    named = {key: value for key, value in values.items() if value != NOT_SET}
    if named.get("loss") == OF_METHOD and "method" in named:
        del named["loss"]
    if named.get("loss", named.get("method")) == NOT_TRAINED:
        named = {"loss": "not trained here"} | {
            k: v for k, v in named.items() if k not in ("loss", "method")
        }
    words = [value if key in CHOICES else f"{key}={value}" for key, value in named.items()]
    return " ".join(words) or "all runs"


def number_of(value: str) -> float | None:
    """A setting's value as a number, where it is one."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) != float("inf") and number == number else None


def order_of(value: str) -> tuple[bool, float, str]:
    """To sort values: not set ones first, then numbers by size, then words."""
    if value == NOT_SET:
        return False, float("-inf"), ""
    number = number_of(value)
    return (number is None, 0.0 if number is None else number, value)
