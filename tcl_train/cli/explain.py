"""Why overrides cannot be carried out, in one line that helps.

An unknown key is answered with the nearest known one, an unknown choice with the list.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcl_train.cli.choices import (
    CONFIG_NAME,
    IN_FOLDERS,
    SECOND_VIEW,
    choices,
    config_dir,
    groups,
)
from tcl_train.cli.overrides import SEARCHPATH
from tcl_train.errors import RequestError

RECORDED = ("names", "overrides", "searchpath")  # by configs/train.yaml


def check_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Finds what Hydra lets pass: an added key that nothing reads, a value in place of settings.

    Raises:
        RequestError: explains the first such override.
    """
    known = _settings() | set(groups())
    for override in overrides:
        root = override.key_or_group.split(".")[0]
        if root in RECORDED:
            raise RequestError(
                f"{override.input_line}: {root} records what a run was started with; set what it "
                "records"
            )
        if _is_added(override) and root not in known:
            known |= set(map(str, _without_values(overrides)))  # the loss brings some, too
            if root not in known:
                raise RequestError(_unknown_key(override, known))
        if root != "hydra" and not is_group(override):
            _check_kind(override, config, overrides)


def _check_kind(override: Override, config: DictConfig, overrides: Iterable[Override]) -> None:
    """A single value must not take the place of settings."""
    key = override.key_or_group
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or name not in node:
        return
    if isinstance(node._get_node(name), DictConfig) or not _holds_settings(key, node):
        return
    before = OmegaConf.select(_without_values(overrides), key)
    names = ", ".join(map(str, before)) if isinstance(before, DictConfig) else "_target_"
    raise RequestError(
        f"{override.input_line}: {key} is a group of settings; set one of {names}, "
        f"as in {key}.KEY=VALUE"
    )


def _holds_settings(key: str, parent: DictConfig) -> bool:
    """Whether settings belong below a key. Known without composing again, for a quick start: they
    do at some roots, where a group's choice has nested parts, as augment does, and where one
    group holds another's choice, as multicrop.small.augment does."""
    *places, last = key.split(".")
    if not places:
        return isinstance(_root().get(key), DictConfig)
    if len(places) > 1 and last in groups():
        return True
    return places[-1] in groups() and "_target_" not in parent


@cache
def _root() -> DictConfig:
    root = OmegaConf.load(config_dir() / f"{CONFIG_NAME}.yaml")
    assert isinstance(root, DictConfig)
    return root


def _settings() -> set[str]:
    return {str(key) for key in _root()} - {"defaults"}


def _without_values(overrides: Iterable[Override]) -> DictConfig:
    """What the choices alone give: what was there before values were set."""
    return compose(CONFIG_NAME, _of_groups(overrides), return_hydra_config=True)


def _is_added(override: Override) -> bool:
    return override.is_add() or override.is_force_add()


def _of_groups(overrides: Iterable[Override]) -> list[str]:
    """The overrides that choose (and where to find choices), without those that set values."""
    return [
        o.input_line
        for o in overrides
        if (is_group(o) or o.key_or_group == SEARCHPATH) and o.input_line is not None
    ]


def is_group(override: Override) -> bool:
    """Whether an override chooses, rather than sets a value."""
    group = override.key_or_group
    return group.startswith("hydra/") or group in groups()


# What Hydra raises for words that it cannot compose.
COMPOSING_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError)


def explain(overrides: Sequence[Override], error: Exception) -> str:
    """What to say when Hydra could not compose these."""
    for override in overrides:
        if is_group(override) and not override.key_or_group.startswith("hydra/"):
            group, value = override.key_or_group, str(override.get_value_element_as_str())
            place = f"{group}@{override.package}" if override.package else group
            there = _choices_of_user_too(group, overrides)
            if value not in there and not (group == "experiment" and value == "null"):
                near = _nearest(value, there)
                return f"{place}={value}: no such {group}{near}; choose one of {', '.join(there)}"
    try:
        base = _without_values(overrides)
    except COMPOSING_ERRORS:
        hydras = [o.input_line or "" for o in overrides if o.key_or_group.startswith("hydra/")]
        return f"{' '.join(hydras)}: {first_line(error)}" if hydras else first_line(error)
    known = set(_keys(base))
    unknown = [
        override
        for override in overrides
        if not (is_group(override) or _is_added(override))
        and override.key_or_group not in known
        and not override.key_or_group.startswith("hydra.")
    ]
    said = dict.fromkeys(_unknown_key(override, known) for override in unknown)
    return "; ".join(said) or first_line(error)


def _choices_of_user_too(group: str, overrides: Iterable[Override]) -> list[str]:
    """The program's choices, and then those that a hydra.searchpath adds."""
    searchpath = [o.input_line for o in overrides if o.key_or_group == SEARCHPATH]
    found = options(
        GlobalHydra.instance().config_loader(),
        group,
        searchpath=[override for override in searchpath if override is not None],
    )
    return [*choices(group), *sorted(set(found) - set(choices(group)))]


def options(
    loader: ConfigLoader,
    group: str,
    kind: ObjectType | None = ObjectType.CONFIG,
    *,
    searchpath: list[str],
) -> list[str]:
    """What Hydra finds for a group, in folders below it too where there are such choices."""

    def find(kind: ObjectType | None) -> list[str]:
        return loader.get_group_options(group, kind, config_name=CONFIG_NAME, overrides=searchpath)

    folders = find(ObjectType.GROUP) if group.split("/")[0] in IN_FOLDERS else []
    nested = [
        f"{folder}/{name}"
        for folder in folders
        for name in options(loader, f"{group}/{folder}", kind, searchpath=searchpath)
    ]
    return [*find(kind), *nested]


def _unknown_key(override: Override, known: set[str]) -> str:
    key = override.key_or_group
    if not key:
        return f"{override.input_line}: cannot be read; write key=value or group=choice"
    if key.split(".")[0] == SECOND_VIEW:
        return (
            f"{override.input_line}: the second view has no separate preset; give it one with "
            f"augment@{SECOND_VIEW}=PRESET, one of {', '.join(choices('augment'))}"
        )
    with_key = _losses_with(key)
    if with_key:
        return (
            f"{override.input_line}: the chosen loss has no {key}; "
            f"losses that have one: {', '.join(with_key)}"
        )
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if parent and siblings:
        names = sorted(name.rpartition(".")[2] for name in siblings)
        listed = ", ".join(name for name in names if name != "_target_") or "none"
        return f"{key}: no such key{_nearest(key, siblings)}; {parent} has {listed}"
    near = _nearest(key, sorted(known | set(groups())))
    return f"{key}: no such key{near}; tcl-train --help lists them"


def _losses_with(key: str) -> list[str]:
    """The losses that bring a root key of this name."""
    return [
        name
        for name in choices("loss")
        if key in OmegaConf.load(config_dir() / "loss" / f"{name}.yaml")
        and key not in ("loss", "defaults")
    ]


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys in dotted form."""
    for name in config:
        key = prefix + str(name)
        if key == "hydra":
            continue
        yield key
        node: Any = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from _keys(node, f"{key}.")


def _nearest(word: str, known: Sequence[str]) -> str:
    # A key that is typed without the group it is in, or with a slip.
    near = [key for key in known if key.rsplit(".", 1)[-1] == word][:1]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2]).strip()
