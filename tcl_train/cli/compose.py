"""From the words of a command line to a composed config.

Hydra does the composing; what it refuses is explained by tcl_train/cli/explain.py. Nothing here
needs torch, unless a config asks what the machine computes in (tcl_train/cli/resolvers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tcl_train.cli import resolvers
from tcl_train.cli.choices import (
    CONFIG_NAME,
    GOES_WITH,
    SECOND_VIEW,
    choices,
    config_dir,
    settings_of,
)
from tcl_train.cli.explain import (
    COMPOSING_ERRORS,
    check_overrides,
    explain,
    first_line,
    is_group,
)
from tcl_train.cli.overrides import (
    SEARCHPATH,
    TRUST,
    parse_overrides,
    quote_overrides,
    searchpath_override,
)
from tcl_train.errors import RequestError


@contextmanager
def hydra_initialized() -> Iterator[ConfigLoader]:
    """Hydra with this program's configs; gives its loader."""
    resolvers.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="tcl-train"):
        yield GlobalHydra.instance().config_loader()


class Composed(NamedTuple):
    """A run's config, resolved and without Hydra's own node, and its directory.

    sweeps_over: the values by key that its experiment goes over with -m.
    """

    config: DictConfig
    run_dir: str
    sweeps_over: Mapping[str, str] = {}


def compose_run(overrides: Sequence[str]) -> Composed:
    """Composes one run.

    Raises:
        RequestError: explains the first override that cannot be carried out.
    """
    config = compose_with_hydra(overrides)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in our own config
    try:
        ours = without_hydra(config)
        resolved = OmegaConf.create(OmegaConf.to_container(ours, resolve=True))
        assert isinstance(resolved, DictConfig)
        values = {str(k): str(v) for k, v in (config.hydra.sweeper.get("params") or {}).items()}
        return Composed(resolved, folder_of_hydra(config, "hydra.run.dir"), values)
    except OmegaConfBaseException as error:
        raise RequestError(first_line(error)) from error


def folder_of_hydra(config: DictConfig, key: str) -> str:
    """A folder that Hydra's own node holds. Raises RequestError where its settings are gone."""
    folder = OmegaConf.select(config, key)
    if not isinstance(folder, str):
        parent = key.rpartition(".")[0]
        raise RequestError(f"{parent} is a group of settings; set {key}=DIR")
    return folder


def compose_with_hydra(overrides: Sequence[str]) -> DictConfig:
    """The config of one run with Hydra's own node, its interpolations unresolved.

    Raises:
        RequestError: explains the first override that cannot be carried out.
    """
    overrides = quote_overrides(overrides)
    parsed = parse_overrides(overrides)
    for override in parsed:
        key = override.key_or_group
        below_augment = key.startswith(("augment.", f"{SECOND_VIEW}.")) or ".augment." in key
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
    with hydra_initialized():
        config = _compose(overrides)
        typed = config.hydra.overrides.task
        going_with = _going_with(parsed, config.hydra.runtime.choices)
        if going_with:
            config = _compose([*overrides, *going_with])
        for key in _strangers(parsed, config):
            place, _, name = key.rpartition(".")
            with open_dict(config):
                del OmegaConf.select(config, place)[name]
        config.hydra.overrides.task = typed
        check_overrides(parsed, config)
    return config


def _compose(words: Sequence[str]) -> DictConfig:
    try:
        return compose(CONFIG_NAME, list(words), return_hydra_config=True)
    except COMPOSING_ERRORS as error:
        raise RequestError(explain(parse_overrides(words), error)) from error


def _going_with(typed: Sequence[Override], choices: Mapping[str, str]) -> list[str]:
    """The choices that go with those that were made, by words or by an experiment, and are not
    made there."""
    groups = {override.key_or_group for override in typed}
    return [
        f"{group}={choice}"
        for (by_group, by_choice), (group, default, choice) in GOES_WITH.items()
        if choices[by_group] == by_choice and choices[group] == default and group not in groups
    ]


REPLACEABLE = ("augment", "encoder", "projector", "optimizer", "scheduler", "probe")


def _strangers(typed: Sequence[Override], config: DictConfig) -> list[str]:
    """Keys of another choice of a part, which a recipe set for its own one before another was
    chosen: method=byol sets the trust of its optimizer, which optimizer=sgd lacks. A key that no
    choice has is left for the part to refuse, and so is what was typed."""
    keys = [override.key_or_group for override in typed]
    chosen = config.hydra.runtime.choices
    return [
        key
        for group in REPLACEABLE
        if (own := settings_of(group, chosen[group])) is not None
        for key in _missing_in(own, config[group], group)
        if not any(k == key or k.startswith(f"{key}.") for k in keys) and _is_known(group, key)
    ]


def _is_known(group: str, key: str) -> bool:
    """Whether some choice of the group has this key."""
    place, _, name = key.removeprefix(f"{group}.").rpartition(".")
    others = (settings_of(group, choice) for choice in choices(group))
    nodes = (OmegaConf.select(own, place) if place else own for own in others if own is not None)
    return any(isinstance(node, DictConfig) and name in node for node in nodes)


def _missing_in(own: DictConfig, node: Any, place: str) -> Iterator[str]:
    """The keys of `node`, and of what is below it, that `own` lacks."""
    for key in map(str, node) if isinstance(node, DictConfig) else ():
        below = own._get_node(key) if key in own else None
        if key not in own:
            yield f"{place}.{key}"
        elif isinstance(below, DictConfig):
            yield from _missing_in(below, node._get_node(key), f"{place}.{key}")


def without_hydra(config: DictConfig) -> DictConfig:
    """The keys that are this program's."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


# ------------------------------------------------------------------ later commands on a run

DATASET_ROOT = "dataset.root"  # may change on resume, too: the content is compared
CHANGEABLE_ON_RESUME = (
    *("device", "compile", "log_every", "profile", "checkpoint", "data", TRUST),
    *("monitor", "monitor_every"),
    "resume",
)
EXTEND, EPOCHS = "resume_extend", "epochs"
DECIDES_NUMBERS = ("data.sampler", "data.images_per_class")  # all the same


def resumed_config(stored: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with which a run is resumed: its own, with the overrides that change no number.

    Raises:
        RequestError: an override sets something else than the run was started with.
    """
    given = parse_overrides(overrides)
    by_key = {override.key_or_group: override for override in given}
    if {"resume", "hydra.run.dir"} <= by_key.keys():
        here, there = (Path(str(by_key[key].value())) for key in ("resume", "hydra.run.dir"))
        if here.resolve() != there.resolve():
            raise RequestError(
                f"{by_key['hydra.run.dir'].input_line}: a run is resumed in its own directory, "
                f"{here}; leave it out, or copy the run there and resume the copy"
            )
    given = [override for override in given if override.key_or_group != "resume"]
    if not given:
        return stored
    overrides = [override.input_line or "" for override in given]
    composed = compose_run([*_searchpath(stored), *stored.overrides, *overrides]).config
    extends = extends_run(overrides)
    changed = []
    for override in given:
        key = override.key_or_group
        place = f"names.{override.package or key}" if is_group(override) else key
        before, now = OmegaConf.select(stored, place), OmegaConf.select(composed, place)
        if before != now and not _may_change(key) and not (extends and key == EPOCHS):
            changed.append((override.input_line, f"{key}={before}"))
    if changed:
        words, befores = zip(*changed, strict=True)
        raise RequestError(
            f"{' '.join(map(str, words))}: the run to resume was started with "
            f"{', '.join(befores)}; leave {'it' if len(changed) == 1 else 'them'} out, or start "
            f"another run (what may change: {', '.join(CHANGEABLE_ON_RESUME[:-1])}, "
            f"{DATASET_ROOT}, and epochs with {EXTEND}=true)"
        )
    for key in CHANGEABLE_ON_RESUME:
        stored[key] = composed[key]
    if any(override.key_or_group == DATASET_ROOT for override in given):
        stored.dataset.root = composed.dataset.root
    return _extended(stored, composed) if extends else stored


def _may_change(key: str) -> bool:
    root = key.split(".")[0]
    if key in DECIDES_NUMBERS:
        return False
    return (
        key == DATASET_ROOT or root in (*CHANGEABLE_ON_RESUME, EXTEND) or root.startswith("hydra")
    )


def extends_run(overrides: Sequence[str]) -> bool:
    """Whether `resume_extend=true` is among them."""
    given = parse_overrides(overrides)
    return any(o.key_or_group == EXTEND and o.value() is True for o in given)


def _extended(stored: DictConfig, composed: DictConfig) -> DictConfig:
    """The run's config for more epochs, with all that follows from their number."""
    if composed.epochs <= stored.epochs:
        raise RequestError(
            f"{EXTEND}=true: give epochs=N above the run's {stored.epochs}, got {composed.epochs}"
        )
    stored.epochs, stored.loss = composed.epochs, composed.loss
    words = [word for word in stored.overrides if not word.startswith(f"{EPOCHS}=")]
    stored.overrides = [*words, f"{EPOCHS}={composed.epochs}"]
    return stored


EVALUATION_KEYS = ("dataset", "probe")
EVALUATION_SETTINGS = (
    *("device", "precision", "data", "seed", "batch_size", "knn", "mirror_features"),
    TRUST,
)


def check_evaluation_keys(overrides: Sequence[str], *, of_run: bool) -> None:
    """Raises RequestError for an override that sets something that evaluation does not use.

    of_run: whether the encoder is a run's, which says what it is.
    """
    own = EVALUATION_KEYS if of_run else ("encoder", *EVALUATION_KEYS)
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if key != SEARCHPATH and key.split(".")[0] not in (*own, *EVALUATION_SETTINGS):
            what = "run=DIR" if of_run else "encoder"
            raise RequestError(
                f"{override.input_line}: evaluation takes {what}, dataset, probe and "
                f"{', '.join(EVALUATION_SETTINGS)}, and their keys; see tcl-eval --help"
            )


def evaluation_config(stored: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of a run with another data set or probe, for evaluating its encoder again. The
    overrides are those that :func:`check_evaluation_keys` lets pass.

    Raises:
        RequestError: an override cannot be carried out.
    """
    given = parse_overrides(overrides)
    chosen = {override.key_or_group for override in given}
    of_run = parse_overrides(stored.overrides)
    if "dataset" in chosen:
        # Its recipe chooses the probe. What the run set for its own data set goes, and with it
        # what it set for parts that the other data set's recipe may not have.
        chosen |= {"probe"}
        of_run = [o for o in of_run if _root(o) in (*EVALUATION_KEYS, *EVALUATION_SETTINGS)]
    kept = [o.input_line or "" for o in of_run if _root(o) not in chosen]
    composed = compose_run([*_searchpath(stored), *kept, *overrides]).config
    for key in (*EVALUATION_KEYS, *EVALUATION_SETTINGS):
        stored[key] = composed[key]
    for key in EVALUATION_KEYS:
        stored.names[key] = composed.names[key]
    return stored


def _root(override: Override) -> str:
    return override.key_or_group.split(".")[0]


def _searchpath(stored: DictConfig) -> list[str]:
    """Where the run found its configs; runs of earlier versions do not store it."""
    return searchpath_override(stored.get("searchpath") or [])
