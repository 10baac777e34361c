"""From the words of a command line to a composed config, with errors that help.

Hydra does the composing. What it refuses is explained here in one line: an unknown key with the
nearest known one, an unknown choice with the list. Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcl_train import resolvers
from tcl_train.errors import RequestError
from tcl_train.words import quoted

CONFIG_NAME = "train"
SECOND_VIEW = "second_view"  # where augment@second_view=PRESET puts the preset


def config_dir() -> Path:
    """The configs: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups() -> list[str]:
    """The config groups that users choose from; the recipe comes with the data set."""
    found = (path.name for path in config_dir().iterdir() if path.is_dir())
    return sorted(name for name in found if name != "recipe")


def choices(group: str) -> list[str]:
    """The choices of a group: its YAML files, resnet8 before resnet18."""
    names = (path.stem for path in (config_dir() / group).glob("*.yaml"))
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda m: m[0].zfill(6), name))


def parse(words: Sequence[str]) -> list[Override]:
    """Raises RequestError for a word that is no override."""
    parser = OverridesParser.create()
    overrides = []
    for word in understood(words):
        try:
            overrides += parser.parse_overrides([word])
        except HydraException as error:
            first = str(error).splitlines()[0]
            raise RequestError(
                f"{word}: not understood ({first}); write key=value or group=choice"
            ) from error
    return overrides


FOLDER_KEYS = ("resume", "hydra.run.dir", "hydra.sweep.dir", "dataset.root", "data.cache_dir")
PLAIN_VALUE = re.compile(r"([A-Za-z_][\w./@]*)=([^\[\]{}'\",]+)")


def understood(words: Sequence[str]) -> list[str]:
    """The words, with quotes round values that Hydra's grammar cannot read otherwise, such as a
    folder's name with = or ~ in it, or would read as a number, such as a folder named 2024."""
    parser = OverridesParser.create()
    result = []
    for word in words:
        try:
            override = parser.parse_overrides([word])[0]
            as_meant = override.key_or_group not in FOLDER_KEYS or not isinstance(
                override.value(), bool | int | float
            )
        except HydraException:
            as_meant = False
        match = None if as_meant else PLAIN_VALUE.fullmatch(word)
        result.append(word if match is None else f"{match[1]}={quoted(match[2])}")
    return result


@contextmanager
def _hydra() -> Iterator[None]:
    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="tcl-train"):
        yield


class Composed(NamedTuple):
    """A run's config, resolved and without Hydra's own node, and its directory."""

    config: DictConfig
    run_dir: str


def compose_run(words: Sequence[str]) -> Composed:
    """Composes one run.

    Raises:
        RequestError: explains the first word that cannot be carried out.
    """
    words = understood(words)
    overrides = parse(words)
    for override in overrides:
        below_augment = override.key_or_group.startswith(("augment.", f"{SECOND_VIEW}."))
        if override.is_delete() and not below_augment:
            raise RequestError(
                f"{override.input_line}: only what is below augment can be taken out; every other "
                "key is needed"
            )
        if override.is_sweep_override():
            raise RequestError(
                f"{override.input_line}: several values for {override.key_or_group} need the flag "
                "-m, which trains once for each; put a list of values in brackets [...]"
            )
    with _hydra():
        try:
            config = compose(CONFIG_NAME, list(words), return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise RequestError(_explain(overrides, error)) from error
        known = _settings() | set(groups())
        for override in overrides:
            root = override.key_or_group.split(".")[0]
            if _is_added(override) and root not in known:
                known |= set(map(str, _without_values(overrides)))  # the loss brings some, too
                if root not in known:
                    raise RequestError(_unknown_key(override, known))
            if root != "hydra" and not _is_group(override):
                _check_kind(override, config, overrides)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in our own config
    try:
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        resolved = OmegaConf.create(OmegaConf.to_container(ours, resolve=True))
        assert isinstance(resolved, DictConfig)
        return Composed(resolved, config.hydra.run.dir)
    except OmegaConfBaseException as error:
        raise RequestError(_first_line(error)) from error


# ------------------------------------------------------------------ later runs of a run

CHANGEABLE_ON_RESUME = ("device", "compile", "log_every", "profile", "checkpoint", "data", "resume")


def resumed_config(stored: DictConfig, words: Sequence[str]) -> DictConfig:
    """The config with which a run goes on: its own, with the words that change no number.

    Raises:
        RequestError: a word says something else than the run was started with.
    """
    given = {o.key_or_group: o for o in parse(words)}
    if {"resume", "hydra.run.dir"} <= given.keys():
        here, there = (Path(str(given[key].value())) for key in ("resume", "hydra.run.dir"))
        if here.resolve() != there.resolve():
            raise RequestError(
                f"{given['hydra.run.dir'].input_line}: a run goes on in its own directory, {here}; "
                "leave it out, or copy the run there and resume the copy"
            )
    words = [o.input_line or "" for o in parse(words) if o.key_or_group != "resume"]
    if not words:
        return stored
    composed = compose_run([*stored.overrides, *words]).config
    for override in parse(words):
        key = override.key_or_group
        root = key.split(".")[0]
        if root in CHANGEABLE_ON_RESUME or root == "hydra" or root.startswith("hydra/"):
            continue
        place = f"names.{override.package or key}" if _is_group(override) else key
        before, now = OmegaConf.select(stored, place), OmegaConf.select(composed, place)
        if before != now:
            raise RequestError(
                f"{override.input_line}: the run to go on with was started with {key}={before}; "
                f"leave it out, or start another run (what may change: "
                f"{', '.join(CHANGEABLE_ON_RESUME[:-1])})"
            )
    for key in CHANGEABLE_ON_RESUME:
        stored[key] = composed[key]
    return stored


EVALUATION_KEYS = ("dataset", "probe")
EVALUATION_SETTINGS = ("device", "precision", "data", "seed", "batch_size")


def evaluation_config(stored: DictConfig, words: Sequence[str]) -> DictConfig:
    """The config of a run with another data set or probe, for evaluating its encoder again.

    Raises:
        RequestError: a word sets something that evaluation does not use.
    """
    given = parse(words)
    for override in given:
        if override.key_or_group.split(".")[0] not in (*EVALUATION_KEYS, *EVALUATION_SETTINGS):
            raise RequestError(
                f"{override.input_line}: evaluation takes run=DIR, dataset, probe and "
                f"{', '.join(EVALUATION_SETTINGS)}, and their keys"
            )
    chosen = {override.key_or_group for override in given}
    if "dataset" in chosen:
        chosen.add("probe")  # which its recipe chooses
    # What the run said of its own data set goes when another one is chosen, and with it what it
    # said of parts that the other data set's recipe may not have.
    kept = [
        override.input_line or ""
        for override in parse(stored.overrides)
        if (root := override.key_or_group.split(".")[0]) not in chosen
        and root in (*EVALUATION_KEYS, *EVALUATION_SETTINGS)
    ]
    composed = compose_run([*kept, *words]).config
    for key in (*EVALUATION_KEYS, *EVALUATION_SETTINGS):
        stored[key] = composed[key]
    for key in EVALUATION_KEYS:
        stored.names[key] = composed.names[key]
    return stored


# ------------------------------------------------------------------ explaining


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
        f"{override.input_line}: {key} holds settings of its own; set one of {names}, "
        f"as in {key}.KEY=VALUE"
    )


def _holds_settings(key: str, parent: DictConfig) -> bool:
    """Whether settings belong below a key. Known without composing again, for a quick start: they
    do at some roots, and where a group's choice has parts of its own, as augment does."""
    place = key.rpartition(".")[0]
    if place:
        return place in groups() and "_target_" not in parent
    return isinstance(_root().get(key), DictConfig)


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
    """The words that choose, without those that set values."""
    return [o.input_line for o in overrides if _is_group(o) and o.input_line is not None]


def _is_group(override: Override) -> bool:
    group = override.key_or_group
    return group.startswith("hydra/") or group in groups()


def _explain(overrides: Sequence[Override], error: Exception) -> str:
    for override in overrides:
        if _is_group(override) and not override.key_or_group.startswith("hydra/"):
            group, value = override.key_or_group, str(override.get_value_element_as_str())
            if value not in choices(group) and not (group == "experiment" and value == "null"):
                near = _nearest(value, choices(group))
                return (
                    f"{group}={value}: no such {group}{near}; choose one of "
                    f"{', '.join(choices(group))}"
                )
    try:
        base = _without_values(overrides)
    except (HydraException, OmegaConfBaseException):
        return _first_line(error)
    known = set(_keys(base))
    for override in overrides:
        if not _is_group(override) and not _is_added(override):
            key = override.key_or_group
            if key not in known and not key.startswith("hydra."):
                return _unknown_key(override, known)
    return _first_line(error)


def _unknown_key(override: Override, known: set[str]) -> str:
    key = override.key_or_group
    if not key:
        return f"{override.input_line}: not understood; write key=value or group=choice"
    if key.split(".")[0] == SECOND_VIEW:
        return (
            f"{override.input_line}: the second view has no preset of its own; give it one with "
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
        listed = ", ".join(name for name in names if name != "_target_")
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
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:  # a key that is typed without the group it is in
        near = [key for key in known if key.rsplit(".", 1)[-1] == word][:1]
    return f", did you mean {near[0]}?" if near else ""


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2]).strip()
