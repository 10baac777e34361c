"""From a composed config to checked settings and built parts.

`tcl-train` calls one function of this module and gets all that it works with (for other commands
see tcl_train/build_evaluation.py and tcl_train/restore.py):

    run = build_run(config)                  # tcl-train

The functions below them build single parts. Nothing is written back into the config: what is
derived (the stem, the mean, the steps) is worked out where it is built.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from tcl_train import checks
from tcl_train.data.augment import Augment
from tcl_train.data.augment.pipeline import COMPILE_OPTIONS
from tcl_train.data.augment.transform import Transform
from tcl_train.data.dataset import NO_LABEL, DataSet, ReadOptions, Split, difference
from tcl_train.data.loader import Loader, cut_where_read
from tcl_train.data.normalize import Normalize
from tcl_train.data.order import Order, build_order, check_sampler
from tcl_train.data.shares import Shares
from tcl_train.data.views import ViewGroup, ViewPlan
from tcl_train.engine.fit import ON_COLLAPSE, Trainer, Watching, unwatched
from tcl_train.engine.gradients import Gradients
from tcl_train.engine.nonfinite import NonFinite
from tcl_train.engine.optimizers import Optimizer
from tcl_train.engine.schedule import Schedule, by_epoch
from tcl_train.errors import RequestError, few
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.evaluation.knn import KNN
from tcl_train.evaluation.monitor import MONITORS, Monitor
from tcl_train.evaluation.probe import Probe
from tcl_train.methods.method import Method
from tcl_train.models.encoder import Encoder
from tcl_train.models.imagenet import imagenet_weights
from tcl_train.models.weights import load_weights
from tcl_train.run import checkpoint
from tcl_train.run.weights_file import read_weights
from tcl_train.runtime.batch_norm import use_global_statistics
from tcl_train.runtime.compilation import CHOICES as COMPILE
from tcl_train.runtime.device import DEVICES, PRECISIONS, Runtime, available_cpus
from tcl_train.runtime.processes import ALONE, Processes
from tcl_train.runtime.randomness import DRAWS, EarlierSeed, generator, seeded

log = logging.getLogger(__name__)


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
    with _as_request_error(""):
        names = [field.name for field in fields(Settings) if field.name in container]
        values = {name: container[name] for name in names}
        settings = Settings(**{**values, "seed": run_seed(config)})
    method = _method_class(config)
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


def _method_class(config: DictConfig) -> type[Method]:
    with _as_request_error("method"):
        made = instantiate(config.method, _partial_=True, _recursive_=False)
        found = getattr(made, "func", None)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise TypeError(
                f"_target_ must be a subclass of {Method.__module__}.{Method.__name__}, got "
                f"{OmegaConf.select(config, 'method._target_')!r}"
            )
    return found


def _build(place: str, node: DictConfig, *args: Any, **keys: Any) -> Any:
    """Calls a node's `_target_` with its keys and the given arguments. A wrong value becomes a
    RequestError that names its place in the config."""
    with _as_request_error(place):
        return instantiate(node, _partial_=True, _convert_="all")(*args, **keys)


@contextmanager
def _as_request_error(place: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OmegaConfBaseException, InstantiationException) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{place}: {first}" if place else first) from error
    except (RuntimeError, MemoryError) as error:  # what is asked for does not fit into the memory
        first = (str(error).splitlines() or [type(error).__name__])[0]
        said = f"cannot be made with these settings ({first})"
        raise RequestError(f"{place}: {said}" if place else said) from error


# ------------------------------------------------------------------ what a command works with


@dataclass(frozen=True, kw_only=True)
class Run:
    """All parts of a training run."""

    config: DictConfig
    settings: Settings
    data: DataSet
    trainer: Trainer
    evaluator: Evaluator


def build_run(
    config: DictConfig,
    *,
    resume_from: Path | None = None,
    data: DataSet | None = None,
    processes: Processes = ALONE,
) -> Run:
    """Everything that pretraining and its evaluation need.

    Args:
        config: a composed config.
        resume_from: the folder of this run's checkpoints, where it continues from the newest whole
            one, or at step 0 where there is none; None: at step 0.
        data: trains on this instead of the config's data set.
        processes: those that train together.

    Raises:
        RequestError: a value is out of range, the parts do not fit together, data are missing, or
            the checkpoint belongs to another run.
    """
    settings, _, loss, probe, _ = all_parts(  # what is wrong with them, before data are read
        partial(read_settings, config),
        partial(_check_sampler, config),
        partial(build_loss, config),
        partial(build_probe, config),
        partial(build_schedule, config),
    )
    found = None
    if resume_from is not None:
        found = checkpoint.load_newest(resume_from, needed=Trainer.PARTS)
    path, state = (None, None) if found is None else found
    weights = read_initial_weights(config) if state is None else None  # the checkpoint has them all
    runtime = Runtime(
        device=settings.device,
        precision=settings.precision if state is None else state["runtime"]["precision"],
        compile=settings.compile,
        processes=processes,
    )
    if data is None:
        with processes.first_of_machine_alone("data"):  # it downloads, and fills the cache
            data = build_data(
                config, supervised=settings.supervised, local_processes=processes.local_count
            )
    data = with_validation(data, settings)
    _check_every_image_has_a_label(config, settings, data)
    with _as_request_error(""):
        data = data.with_labels_of(settings.labelled, generator(settings.seed, "labelled"))
    trainer = _build_trainer(
        config, settings, loss=loss, data=data, runtime=runtime, weights=weights
    )
    if state is not None:
        _check_same_data(state, trainer)
        _restore(trainer, state, path)
    # Untrained is untrained: without what encoder.weights gives.
    make_untrained = partial(build_encoder, config, image_size=data.image_size)
    evaluator = Evaluator(
        data=data,
        probe=probe,
        augment=build_augment(config, data),
        runtime=runtime,
        make_untrained=make_untrained if settings.random_encoder_baseline else None,
        seed=settings.seed,
        batch_size=settings.batch_size,
        mirror_features=settings.mirror_features,
        knn=KNN(**settings.knn),
    )
    return Run(config=config, settings=settings, data=data, trainer=trainer, evaluator=evaluator)


def _check_every_image_has_a_label(config: DictConfig, settings: Settings, data: DataSet) -> None:
    """Where the request needs one."""
    labels_N = data.pretrain.labels_N
    if not settings.supervised or labels_N is None:  # no label is read
        return
    missing = int(labels_N.eq(NO_LABEL).sum())
    if not missing:
        return
    sampler, _ = _sampler(config)
    if _method_class(config).needs_labels:
        who = f"method={config.names.method}"
    elif sampler != "shuffle":
        who = f"data.sampler={sampler}"
    else:
        return
    raise RequestError(
        f"{who} needs a label for each image, and {missing:,} of {len(data.pretrain):,} have none; "
        "leave them out (dataset.unlabelled=false), or give method=contrastive and "
        "data.sampler=shuffle"
    )


def with_validation(data: DataSet, settings: Settings, seed: int | None = None) -> DataSet:
    """seed: by which images are kept out; None: that of the settings."""
    with _as_request_error(""):
        g = generator(settings.seed if seed is None else seed, "validation")
        return data.with_validation(settings.validation, g)


def all_parts(*makers: Callable[[], Any]) -> list[Any]:
    """What all of them make. Raises RequestError with everything that they complain of."""
    parts: list[Any] = []
    problems: list[str] = []
    for make in makers:
        try:
            parts.append(make())
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("; ".join(dict.fromkeys(problems)))
    return parts


def _build_trainer(
    config: DictConfig,
    settings: Settings,
    *,
    loss: nn.Module,
    data: DataSet,
    runtime: Runtime,
    weights: Weights,
) -> Trainer:
    """All that pretraining needs, at step 0."""
    cut, groups = cut_where_read(build_views(config, settings, data), data.pretrain)
    shares = Shares(settings.batch_size, settings.chunk_size, runtime.processes)
    loader = Loader(
        data.pretrain,
        batch_size=settings.batch_size,
        supervised=settings.supervised,
        seed=settings.seed,
        device=runtime.device,
        cut=cut,
        places=shares.places(),
        order=_epoch_order(config, settings, data.pretrain),
    )
    downloads = weights == IMAGENET
    with runtime.processes.first_of_machine_alone("weights") if downloads else nullcontext():
        encoder = build_initial_encoder(config, image_size=data.image_size, weights=weights)
    method = build_method(config, encoder=encoder, loss=loss, num_classes=len(data.classes))
    chunks = len(shares.chunks())
    runtime.compilation.decide(
        passes=settings.epochs * loader.steps_per_epoch * chunks,
        sizes=_view_sizes(groups, settings),
        chunks=chunks,
    )
    runtime.prepare(method)
    use_global_statistics(method, runtime.processes)
    return Trainer(
        method=method,
        loader=loader,
        views=ViewPlan(
            groups,
            seed=settings.seed,
            compiled=partial(runtime.compiled, options=COMPILE_OPTIONS),
        ),
        gradients=Gradients(runtime, shares, seed=settings.seed),
        optimizer=build_optimizer(config, method),
        schedule=build_schedule(config),
        runtime=runtime,
        epochs=settings.epochs,
        lr=settings.lr,
        log_every=settings.log_every,
        on_collapse=settings.on_collapse,
        nonfinite=NonFinite(settings.on_nonfinite, settings.nonfinite_limit),
        monitor=_build_monitor(settings, data, runtime),
        about={
            "image_size": data.image_size,
            "mean": list(data.mean),
            "std": list(data.std),
            "classes": list(data.classes),
            "data": data.fingerprint(),
        },
    )


def _view_sizes(groups: Sequence[ViewGroup], settings: Settings) -> int:
    """How many sizes of views the encoder sees."""
    return len({group.side(epoch) for group in groups for epoch in range(settings.epochs)})


def _build_monitor(settings: Settings, data: DataSet, runtime: Runtime) -> Watching:
    if settings.monitor is None:
        return unwatched
    return Monitor(
        data=data,
        normalize=_normalize(data),
        runtime=runtime,
        seed=settings.seed,
        every=settings.monitor_every,
    )


def _sampler(config: DictConfig) -> tuple[str, Any]:
    """`data.sampler` and `data.images_per_class`, which runs of earlier versions lack."""
    return config.data.get("sampler", "shuffle"), config.data.get("images_per_class", None)


def _check_sampler(config: DictConfig) -> None:
    """What is wrong with it whatever the data are."""
    name, per_class = _sampler(config)
    with _as_request_error(""):
        check_sampler(name, per_class, supervised=config.supervised, batch_size=config.batch_size)
        if name != "shuffle" and config.get("labelled", 1) != 1:
            raise ValueError(
                f"data.sampler={name} needs a label for each image; give labelled=1, or "
                "data.sampler=shuffle"
            )


def _epoch_order(config: DictConfig, settings: Settings, split: Split) -> Order:
    name, per_class = _sampler(config)
    with _as_request_error(""):
        return build_order(
            name,
            images_per_class=per_class,
            count=len(split),
            labels_N=split.labels_N if settings.supervised else None,
        )


def _check_same_data(state: dict[str, Any], trainer: Trainer) -> None:
    before = state["about"].get("data")  # which runs of earlier versions do not store
    changed = before and difference(before, trainer.about["data"])
    if changed:
        raise RequestError(
            f"the data are not those that the run was started with: {changed}; restore them, or "
            "start another run"
        )


def _restore(trainer: Trainer, state: dict[str, Any], path: Path | None) -> None:
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise RequestError(
            f"{path}: does not fit this run's config ({str(error).splitlines()[0]})"
        ) from error


# ------------------------------------------------------------------ single parts


def build_loss(config: DictConfig) -> nn.Module:
    return _build("loss", config.loss)


LATER_DATA_KEYS = ("cache_limit_gb", "on_damaged")  # which runs of earlier versions lack


def build_data(config: DictConfig, *, supervised: bool, local_processes: int = 1) -> DataSet:
    """local_processes: how many share the CPUs of this machine."""
    workers = config.data.workers
    if workers == "auto":
        workers = max(1, available_cpus() // local_processes)
    with _as_request_error(""):
        options = ReadOptions(
            cache_dir=_cache_dir(config.data.cache_dir),
            memory_limit_gb=config.data.memory_limit_gb,
            workers=workers,
            supervised=supervised,
            seed=run_seed(config),
            **{key: config.data[key] for key in LATER_DATA_KEYS if key in config.data},
        )
    return _build("dataset", config.dataset, options=options)


def _cache_dir(given: str | None) -> Path:
    if given is not None:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tcl-train"


def build_augment(config: DictConfig, data: DataSet) -> Augment:
    """That of `augment` and `second_view`. Raises RequestError for a wrong setting and for images
    of which it cannot make views."""
    second = None
    if config.get("second_view") is not None:
        second = _build_transforms("second_view", config.second_view)
    augment = Augment(_build_transforms("augment", config.augment), _normalize(data), second)
    _check_views("", augment, data, [None])
    return augment


def build_views(config: DictConfig, settings: Settings, data: DataSet) -> list[ViewGroup]:
    """The views of `augment`, and the groups of `multicrop`. Raises RequestError for a wrong
    setting and for images of which it cannot make views of these sides."""
    size = by_epoch("view_size", settings.view_size, settings.epochs)
    augment = build_augment(config, data)
    groups = [ViewGroup(augment=augment, count=settings.views, size=size, name="views")]
    for name, node in (config.get("multicrop") or {}).items():  # which earlier versions lack
        groups.append(_further_views(f"multicrop.{name}", name, node, groups[0], data))
    for group in groups:
        place = "" if group is groups[0] else f"multicrop.{group.name}."
        sizes = {group.size(epoch) for epoch in range(settings.epochs)}
        _check_views(place, group.augment, data, sizes)
    return groups


def _further_views(
    place: str, name: str, node: DictConfig, first: ViewGroup, data: DataSet
) -> ViewGroup:
    keys = {"count", "size", "augment"}
    if not isinstance(node, DictConfig) or set(node) != keys:
        raise RequestError(f"{place} must hold count, size and augment, got {node}")
    with _as_request_error(place):
        count, size = checks.integer("count", node.count, at_least=1), node["size"]
        if size is not None:
            checks.integer("size (or null)", size, at_least=1)
    transforms = _build_transforms(f"{place}.augment", node.augment)

    def side(epoch: int) -> int:
        return size or max(1, first.side(epoch) // 2)

    return ViewGroup(
        augment=Augment(transforms, _normalize(data)), count=count, size=side, name=name
    )


def _build_transforms(place: str, node: DictConfig) -> dict[str, Transform]:
    return {str(name): _build(f"{place}.{name!s}", of_one) for name, of_one in node.items()}


def _normalize(data: DataSet) -> Normalize:
    return Normalize(size=data.image_size, mean=data.mean, std=data.std)


def _check_views(place: str, augment: Augment, data: DataSet, sizes: Iterable[int | None]) -> None:
    try:
        for size in sizes:
            augment.with_size(size).check(data.image_size, data.image_size)
    except ValueError as error:
        raise RequestError(f"{place}{error}") from error


WEIGHTS = "weights"  # of the encoder, which its function is not given
IMAGENET = "imagenet"

# What encoder.weights names: IMAGENET, or what a file or a run holds; None: nothing.
Weights = str | Mapping[str, Any] | None


def build_encoder(config: DictConfig, *, image_size: int) -> Encoder:
    """Untrained, with the weights that the seed decides; encoder.weights is left aside."""
    node = config.encoder
    if WEIGHTS in node:
        node = OmegaConf.masked_copy(node, [key for key in node if key != WEIGHTS])
    with seeded(run_seed(config), "encoder"):
        return _build("encoder", node, image_size)


def read_initial_weights(config: DictConfig) -> Weights:
    """What encoder.weights names. Raises RequestError where that is neither a file nor a run."""
    given = config.encoder.get(WEIGHTS)  # which earlier versions and others' encoders lack
    if given is None or given == IMAGENET:
        return given
    if not isinstance(given, str):
        raise RequestError(f"encoder.weights={given}: give imagenet, a FILE or a run directory")
    return read_weights(given)


def build_initial_encoder(config: DictConfig, *, image_size: int, weights: Weights) -> Encoder:
    """As pretraining starts with it: with these weights where there are any. Raises RequestError
    where they don't fit."""
    encoder = build_encoder(config, image_size=image_size)
    if weights is None:
        return encoder
    given = f"encoder.weights={config.encoder[WEIGHTS]}"
    with _as_request_error(given):
        if weights == IMAGENET:
            weights = imagenet_weights(getattr(encoder, "architecture", None), image_size)
        assert isinstance(weights, Mapping)
        skipped = load_weights(encoder, weights)
    left_out = f"; skipped: {few(skipped)}" if skipped else ""
    log.info("%s: the encoder starts from these weights%s", given, left_out)
    return encoder


def build_projector(config: DictConfig, *, feature_dim: int) -> nn.Module:
    """With the initial weights that the seed decides."""
    with seeded(run_seed(config), "projector"):
        return _build("projector", config.projector, feature_dim)


def build_method(
    config: DictConfig, *, encoder: Encoder, loss: nn.Module, num_classes: int
) -> Method:
    """The encoder with what trains it."""
    projector = build_projector(config, feature_dim=encoder.feature_dim)
    with seeded(run_seed(config), "method"):
        return _build(
            "method",
            config.method,
            encoder=encoder,
            projector=projector,
            loss=loss,
            num_classes=num_classes,
        )


def build_optimizer(config: DictConfig, method: Method) -> Optimizer:
    return _build("optimizer", config.optimizer, method, config.lr)


def build_schedule(config: DictConfig) -> Schedule:
    return _build("scheduler", config.scheduler)


def build_probe(config: DictConfig) -> Probe:
    return _build("probe", config.probe)
