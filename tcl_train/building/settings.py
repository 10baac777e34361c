"""The settings that are plain values, checked one by one and across each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tcl_train import checks
from tcl_train.building.nodes import as_request_error
from tcl_train.data.order import check_sampler
from tcl_train.engine.fit import ON_COLLAPSE
from tcl_train.engine.nonfinite import NonFinite
from tcl_train.engine.schedule import by_epoch
from tcl_train.errors import RequestError
from tcl_train.evaluation.knn import KNN
from tcl_train.evaluation.monitor import MONITORS
from tcl_train.methods.method import Method
from tcl_train.runtime.compilation import CHOICES as COMPILE
from tcl_train.runtime.device import DEVICES, PRECISIONS
from tcl_train.runtime.randomness import DRAWS, EarlierSeed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings at the root of the config that are plain values. See configs/train.yaml."""

    seed: int
    epochs: int
    batch_size: int
    views: int
    supervised: bool
    lr: float
    device: str
    precision: str
    compile: bool | str
    random_encoder_baseline: bool
    log_every: int
    checkpoint: Mapping[str, Any]
    # Which runs of earlier versions do not say:
    deterministic: bool = False
    profile: bool = False
    mirror_features: bool = False
    chunk_size: int | None = None
    on_collapse: str = "warn"
    on_nonfinite: str = "stop"
    nonfinite_limit: int = 10
    validation: float = 0
    labelled: float = 1
    view_size: int | Sequence[Sequence[int]] | Mapping[int, int] | None = None
    monitor: str | None = None
    monitor_every: int = 1
    knn: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        c = checks
        c.all_of(
            lambda: c.integer("seed", self.seed, at_least=0),
            lambda: c.integer("epochs", self.epochs, at_least=1),
            lambda: c.integer("batch_size", self.batch_size, at_least=2),
            lambda: c.integer("views", self.views, at_least=1),
            lambda: by_epoch("view_size", self.view_size, self.epochs),
            lambda: c.boolean("supervised", self.supervised),
            lambda: c.number("lr", self.lr, above=0),
            lambda: c.one_of("device", self.device, DEVICES),
            lambda: c.one_of("precision", self.precision, PRECISIONS),
            lambda: c.one_of("compile", str(self.compile).lower(), COMPILE),
            lambda: c.boolean("random_encoder_baseline", self.random_encoder_baseline),
            lambda: c.integer("log_every", self.log_every, at_least=1),
            lambda: c.boolean("deterministic", self.deterministic),
            lambda: c.boolean("profile", self.profile),
            lambda: c.boolean("mirror_features", self.mirror_features),
            lambda: c.number("validation", self.validation, at_least=0, below=1),
            lambda: c.number("labelled", self.labelled, above=0, at_most=1),
            lambda: self.monitor is None or c.one_of("monitor (or null)", self.monitor, MONITORS),
            lambda: c.integer("monitor_every", self.monitor_every, at_least=1),
            lambda: NonFinite(self.on_nonfinite, self.nonfinite_limit),
            lambda: c.one_of("on_collapse", self.on_collapse, ON_COLLAPSE),
            lambda: KNN(**self.knn),
            lambda: (
                self.chunk_size is None
                or c.integer("chunk_size (or null)", self.chunk_size, at_least=1)
            ),
            self._check_checkpoint,
        )

    def _check_checkpoint(self) -> None:
        given = self.checkpoint
        if not isinstance(given, Mapping):
            raise TypeError(f"checkpoint must hold every and keep, got {given!r}")
        minutes = given.get("every_minutes")  # which runs of earlier versions lack
        keep, place = given["keep"], "checkpoint.keep (or all)"
        checks.all_of(
            lambda: checks.integer("checkpoint.every", given["every"], at_least=1),
            lambda: (
                minutes is None
                or checks.number("checkpoint.every_minutes (or null)", minutes, above=0)
            ),
            lambda: keep == "all" or checks.integer(place, keep, at_least=1),
        )


def read_settings(config: DictConfig) -> Settings:
    """Raises RequestError for a value out of range and for combinations that cannot train."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    with as_request_error(""):
        names = [field.name for field in fields(Settings) if field.name in container]
        values = {name: container[name] for name in names}
        settings = Settings(**{**values, "seed": run_seed(config)})
    method = method_class(config)
    if settings.views == 1 and not method.reads_labels:
        raise RequestError(
            f"views=1: method={config.names.method} compares views of an image; give views=2 or "
            "more"
        )
    if not method.needs_labels and settings.views == 1 and not settings.supervised:
        raise RequestError(
            f"views=1 with supervised=false leaves the loss {config.names.loss} without positives; "
            "give views=2 or more, or supervised=true"
        )
    if settings.supervised and not method.reads_labels:
        raise RequestError(
            f"supervised=true: method={config.names.method} reads no labels; give supervised=false "
            "or another method"
        )
    if settings.labelled < 1 and (method.needs_labels or not settings.supervised):
        why = "with supervised=false no label is read"
        if method.needs_labels:
            why = f"method={config.names.method} needs a label for each image"
        raise RequestError(
            f"labelled={settings.labelled:g}: {why}; give labelled=1, or method=contrastive with "
            "supervised=true"
        )
    if method.needs_labels and not settings.supervised:
        raise RequestError(
            f"supervised=false: loss={config.names.loss} with method={config.names.method} learns "
            "from labels; give supervised=true or another choice"
        )
    if settings.monitor and not settings.validation:
        raise RequestError(
            f"monitor={settings.monitor} scores training images that pretraining does not see; "
            "give validation=0.1"
        )
    return settings


def run_seed(config: DictConfig) -> int:
    """The seed, marked where the run was begun by an earlier version that drew otherwise."""
    return config.seed if config.get("draws", 1) >= DRAWS else EarlierSeed(config.seed)


def method_class(config: DictConfig) -> type[Method]:
    with as_request_error("method"):
        made = instantiate(config.method, _partial_=True, _recursive_=False)
        found = getattr(made, "func", None)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise TypeError(
                f"_target_ must be a subclass of {Method.__module__}.{Method.__name__}, got "
                f"{OmegaConf.select(config, 'method._target_')!r}"
            )
    return found


def sampler_of(config: DictConfig) -> tuple[str, Any]:
    """`data.sampler` and `data.images_per_class`, which runs of earlier versions lack."""
    return config.data.get("sampler", "shuffle"), config.data.get("images_per_class", None)


def check_sampling(config: DictConfig) -> None:
    """Raises RequestError for sampling settings that are invalid for any data set."""
    name, per_class = sampler_of(config)
    with as_request_error(""):
        check_sampler(name, per_class, supervised=config.supervised, batch_size=config.batch_size)
        if name != "shuffle" and config.get("labelled", 1) != 1:
            raise ValueError(
                f"data.sampler={name} needs a label for each image; give labelled=1, or "
                "data.sampler=shuffle"
            )
