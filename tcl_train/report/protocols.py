"""How accuracies were measured: only those that were measured alike are put together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def protocol_of(result: Mapping[str, Any]) -> str:
    """How the accuracies were measured, in parts divided by semicolons: equal for runs that may be
    compared. What was chosen or scored on the way differs from run to run and is left out."""
    probe = result.get("probe")
    probe = probe if isinstance(probe, Mapping) else {"name": probe}
    told = [key for key in probe if key != "l2" and probe[key] not in (False, None)]
    parts = [f"{in_words(key)}: {_steady(str(probe[key]))}" for key in told]
    if probe.get("l2_chosen_by") is None and "l2" in probe:
        parts.append(f"L2: {probe['l2']}")
    knn = result.get("knn")
    if isinstance(knn, Mapping):
        scalars = {k: v for k, v in knn.items() if isinstance(v, (str, int, float))}
        parts.append("kNN: " + ", ".join(f"{in_words(k)} {v}" for k, v in scalars.items()))
    for key, words in (("num_test", "test images"), ("num_classes", "classes")):
        parts.append(f"{words}: {result.get(key, 'unknown')}")
    if result.get("test_split"):
        parts.append(f"split: {Path(str(result['test_split'])).name}")
    return "; ".join(parts)


def in_words(key: str) -> str:
    return key.replace("_", " ").replace("l2 ", "L2 ")


def _steady(text: str) -> str:
    """Without scores, which stand in brackets, and without every one of many candidates; with
    commas for semicolons."""
    text = re.sub(r" \(\d[^)]*%[^)]*\)", "", text)
    head, candidates, listed = text.partition("; candidates ")
    if candidates:
        names = listed.split(", ")
        head += f", among {len(names)} from {names[0]} to {names[-1]}"
    return head.replace(";", ",")


def explained(letters: Mapping[str, str]) -> list[tuple[str, str]]:
    """Of protocols with their letters, what all have in common, under "", and what is different,
    under each letter."""
    if not letters:
        return []
    parts = {letter: protocol.split("; ") for protocol, letter in letters.items()}
    shared = [part for part in next(iter(parts.values())) if all(part in p for p in parts.values())]
    own = [
        (letter, "; ".join(part for part in each if part not in shared))
        for letter, each in parts.items()
        if letter
    ]
    return [("", "; ".join(shared)), *own]


def lettered(protocols: Sequence[str], first: str = "A") -> dict[str, str]:
    """protocol -> letter, in the order of the groups; "" of a single one."""
    distinct = list(dict.fromkeys(protocols))
    if len(distinct) == 1:
        return {distinct[0]: ""}
    return {protocol: _letter(number, first) for number, protocol in enumerate(distinct)}


def _letter(number: int, first: str) -> str:
    return chr(ord(first) + number) if number < 26 else f"{first}{number}"
