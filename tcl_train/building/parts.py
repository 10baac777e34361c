"""Single parts of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from tcl_train import checks
from tcl_train.building.nodes import as_request_error, build_node
from tcl_train.building.settings import Settings, run_seed
from tcl_train.data.augment import Augment
from tcl_train.data.augment.transform import Transform
from tcl_train.data.dataset import DataSet, ReadOptions
from tcl_train.data.normalize import Normalize
from tcl_train.data.views import ViewGroup
from tcl_train.engine.optimizers import Optimizer
from tcl_train.engine.schedule import Schedule, by_epoch
from tcl_train.errors import RequestError
from tcl_train.evaluation.probe import Probe
from tcl_train.methods.method import Method
from tcl_train.models.encoder import Encoder
from tcl_train.models.imagenet import imagenet_weights
from tcl_train.models.weights import by_part, is_padded, load_weights
from tcl_train.run.weights_file import read_weights
from tcl_train.runtime.device import available_cpus
from tcl_train.runtime.randomness import seeded

log = logging.getLogger(__name__)


def build_loss(config: DictConfig) -> nn.Module:
    return build_node("loss", config.loss)


LATER_DATA_KEYS = ("cache_limit_gb", "on_damaged", "decode")  # which runs of earlier versions lack


def build_data(config: DictConfig, *, supervised: bool, local_processes: int = 1) -> DataSet:
    """local_processes: how many share the CPUs of this machine."""
    workers = config.data.workers
    if workers == "auto":
        workers = max(1, available_cpus() // local_processes)
    with as_request_error(""):
        options = ReadOptions(
            cache_dir=_cache_dir(config.data.cache_dir),
            memory_limit_gb=config.data.memory_limit_gb,
            workers=workers,
            supervised=supervised,
            seed=run_seed(config),
            **{key: config.data[key] for key in LATER_DATA_KEYS if key in config.data},
        )
    return build_node("dataset", config.dataset, options=options)


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
    augment = Augment(_build_transforms("augment", config.augment), normalize_of(data), second)
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
    with as_request_error(place):
        count, size = checks.integer("count", node.count, at_least=1), node["size"]
        if size is not None:
            checks.integer("size (or null)", size, at_least=1)
    transforms = _build_transforms(f"{place}.augment", node.augment)

    def side(epoch: int) -> int:
        return size or max(1, first.side(epoch) // 2)

    return ViewGroup(
        augment=Augment(transforms, normalize_of(data)), count=count, size=side, name=name
    )


def _build_transforms(place: str, node: DictConfig) -> dict[str, Transform]:
    return {str(name): build_node(f"{place}.{name!s}", of_one) for name, of_one in node.items()}


def normalize_of(data: DataSet) -> Normalize:
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
        return build_node("encoder", node, image_size)


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
    architecture = getattr(encoder, "architecture", None)
    with as_request_error(given):
        if weights == IMAGENET:
            weights = imagenet_weights(architecture, image_size)
        assert isinstance(weights, Mapping)
        skipped = load_weights(encoder, weights)
    left_out = f"; skipped: {', '.join(by_part(skipped))}" if skipped else ""
    log.info("%s: the encoder starts from these weights%s", given, left_out)
    if is_padded(weights) and architecture is not None and architecture.stem == "small":
        log.warning(
            "%s: these look like weights of solo-learn for CIFAR, whose first convolution has a "
            "padding of two pixels; if so, give encoder.stem=padded",
            given,
        )
    return encoder


def build_projector(config: DictConfig, *, feature_dim: int) -> nn.Module:
    """With the initial weights that the seed decides."""
    with seeded(run_seed(config), "projector"):
        return build_node("projector", config.projector, feature_dim)


def build_method(
    config: DictConfig, *, encoder: Encoder, loss: nn.Module, num_classes: int
) -> Method:
    """The encoder with what trains it."""
    projector = build_projector(config, feature_dim=encoder.feature_dim)
    with seeded(run_seed(config), "method"):
        return build_node(
            "method",
            config.method,
            encoder=encoder,
            projector=projector,
            loss=loss,
            num_classes=num_classes,
        )


def build_optimizer(config: DictConfig, method: Method) -> Optimizer:
    return build_node("optimizer", config.optimizer, method, config.lr)


def build_schedule(config: DictConfig) -> Schedule:
    return build_node("scheduler", config.scheduler)


def build_probe(config: DictConfig) -> Probe:
    return build_node("probe", config.probe)
