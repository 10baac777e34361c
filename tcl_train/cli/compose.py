"""From the words of a command line to a composed config.

Hydra does the composing; what it refuses is explained by tcl_train/cli/explain.py. Nothing here
needs torch, unless a config asks what the machine computes in (tcl_train/cli/resolvers.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tcl_train.cli import resolvers
from tcl_train.cli.choices import CONFIG_NAME, SECOND_VIEW, config_dir
from tcl_train.cli.explain import check_words, explain, first_line, is_group
from tcl_train.cli.overrides import quoted
from tcl_train.errors import RequestError


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
            raise RequestError(explain(overrides, error)) from error
        check_words(overrides, config)
    HydraConfig.instance().set_config(config)  # for ${hydra:...} in our own config
    try:
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        resolved = OmegaConf.create(OmegaConf.to_container(ours, resolve=True))
        assert isinstance(resolved, DictConfig)
        return Composed(resolved, config.hydra.run.dir)
    except OmegaConfBaseException as error:
        raise RequestError(first_line(error)) from error


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
        place = f"names.{override.package or key}" if is_group(override) else key
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
        chosen |= {"probe", "experiment"}  # its recipe chooses the probe
    # What the run said of its own data set goes when another one is chosen, and with it what it
    # said of parts that the other data set's recipe may not have.
    kept = [
        override.input_line or ""
        for override in parse(stored.overrides)
        if (root := override.key_or_group.split(".")[0]) not in chosen
        and root in ("experiment", *EVALUATION_KEYS, *EVALUATION_SETTINGS)
    ]
    composed = compose_run([*kept, *words]).config
    for key in (*EVALUATION_KEYS, *EVALUATION_SETTINGS):
        stored[key] = composed[key]
    for key in EVALUATION_KEYS:
        stored.names[key] = composed.names[key]
    return stored
