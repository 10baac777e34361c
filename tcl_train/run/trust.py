"""What a stored config may call.

A config names functions to call (`_target_`). Those of a run directory may come from somebody else,
so that only the parts of this package may stand there, each in its place, and those of packages
that the user names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tcl_train.errors import RequestError

TARGET = "_target_"
ROOMS = {
    "dataset": "tcl_train.data",
    "augment": "tcl_train.data.augment",
    "second_view": "tcl_train.data.augment",
    "multicrop": "tcl_train.data.augment",
    "encoder": "tcl_train.models",
    "projector": "tcl_train.models",
    "loss": "tcl_train.losses",
    "method": "tcl_train.methods",
    "optimizer": "tcl_train.engine",
    "scheduler": "tcl_train.engine",
    "probe": "tcl_train.evaluation",
}


def check_targets(config: DictConfig, where: object, trust: Sequence[str] = ()) -> None:
    """Raises RequestError for the first target of a stored config that may not be called.

    trust: packages, besides this one, whose functions may be called.
    """
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    for place, target in _targets(container, ()):
        if not (_is_ours(place[0], target) or _is_of(trust, target)):
            package = target.split(".")[0]
            raise RequestError(
                f"{where}: {'.'.join(place)} calls {target}, which is no "
                f"{place[0]} of tcl_train; if you trust it, add trust={package}"
            )


def _targets(node: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """All targets below a node, with the keys that lead to them."""
    if isinstance(node, dict):
        if TARGET in node:
            yield (place or (TARGET,)), str(node[TARGET])
        for key, value in node.items():
            yield from _targets(value, (*place, str(key)))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, (*place, str(i)))


def _is_ours(place: str, target: str) -> bool:
    """A public function or class that was written in the room of this place (and not another
    package's, which can be reached through our modules)."""
    room = ROOMS.get(place)
    if room is None or not target.startswith(f"{room}."):
        return False
    if any(part.startswith("_") for part in target.split(".")):
        return False
    try:
        found = get_object(target)
    except Exception:
        return False
    if isinstance(found, partial):
        found = found.func
    module = getattr(found, "__module__", "") or ""
    return callable(found) and (module == room or module.startswith(f"{room}."))


def _is_of(packages: Sequence[str], target: str) -> bool:
    return any(target.startswith(f"{package}.") for package in packages)
