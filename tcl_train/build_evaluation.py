"""All parts of the evaluation of an encoder: of a run's checkpoint, or as a config builds it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from tcl_train.building.nodes import all_parts
from tcl_train.building.parts import (
    Weights,
    build_augment,
    build_data,
    build_encoder,
    build_initial_encoder,
    build_probe,
    build_projector,
    read_initial_weights,
)
from tcl_train.building.run import with_validation
from tcl_train.building.settings import read_settings
from tcl_train.data.dataset import DataSet, difference
from tcl_train.errors import RequestError
from tcl_train.evaluation.evaluate import Evaluator
from tcl_train.evaluation.features import frozen
from tcl_train.evaluation.knn import KNN
from tcl_train.evaluation.measure import FurtherMeasure
from tcl_train.restore import ENCODER_PARTS, restore_features
from tcl_train.run import checkpoint
from tcl_train.runtime.device import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All parts of the evaluation of an encoder.

    trained_size: the side of the images that the encoder was trained on; None: not known. step: the
    number of training steps that it has seen here.
    """

    config: DictConfig
    data: DataSet
    encoder: nn.Module
    evaluator: Evaluator
    trained_size: int | None = None
    step: int = 0


def build_evaluation(
    config: DictConfig,
    path: Path | None,
    *,
    features: str = "encoder",
    untrained: bool = True,
    further: Sequence[FurtherMeasure] = (),
    validation_seed: int | None = None,
) -> Evaluation:
    """The encoder of a checkpoint with what measures it. Images are normalised by their own data
    set's mean and standard deviation, as in the usual transfer protocol.

    Args:
        config: a run's, or a composed one.
        path: the checkpoint; None: the encoder is as pretraining would start with it.
        features: `encoder`, or `projector`: of the projector's output.
        untrained: whether an untrained encoder is measured, too.
        further: measures beside those that every evaluation has.
        validation_seed: the seed that validation images were kept out of pretraining by, where
            the config's is another one.

    Raises:
        RequestError: there is no whole checkpoint, it does not fit the config, a value is wrong, or
            the encoder cannot take these images.
    """
    settings, probe = all_parts(partial(read_settings, config), partial(build_probe, config))
    state = None if path is None else checkpoint.load(path, needed=ENCODER_PARTS)
    weights = read_initial_weights(config) if state is None else None
    runtime = Runtime(device=settings.device, precision=settings.precision)
    data = build_data(config, supervised=True)
    data = with_validation(data, settings, validation_seed)
    if data.train is None or data.test is None:
        raise RequestError(
            f"{data.root or config.names.dataset}: these images have no labels, so that no "
            "accuracy can be measured; give a folder with train/CLASS/ and test/CLASS/"
        )
    image_size = data.image_size if state is None else state["about"]["image_size"]
    encoder: nn.Module
    if state is None:
        encoder = build_initial_encoder(config, image_size=image_size, weights=weights)
        if weights is not None:
            log.info(
                "images are normalised with dataset.mean=%s dataset.std=%s; give those that the "
                "weights were trained with",
                *(_listed(values) for values in (data.mean, data.std)),
            )
    else:
        encoder = restore_features(config, state, features)
    for measure in further:
        measure.check(data)
    if state is not None and data.image_size != image_size:
        log.info(
            "the encoder was trained on images of %d x %d pixels; these are %d x %d "
            "(dataset.image_size=%d resizes them)",
            *[image_size] * 2,
            *[data.image_size] * 2,
            image_size,
        )
    encoder = runtime.place(encoder)
    _check_takes(encoder, data.image_size, runtime)
    evaluator = Evaluator(
        data=data,
        probe=probe,
        augment=build_augment(config, data),
        runtime=runtime,
        make_untrained=partial(_untrained, config, features, image_size) if untrained else None,
        seed=settings.seed,
        batch_size=settings.batch_size,
        mirror_features=settings.mirror_features,
        knn=KNN(**settings.knn),
        further=further,
        seen=_was_seen(data, state, weights),
    )
    return Evaluation(
        config=config,
        data=data,
        encoder=encoder,
        evaluator=evaluator,
        trained_size=None if state is None else image_size,
        step=0 if state is None else state["step"],
    )


def _listed(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.4g}' for value in values)}]"


def _untrained(config: DictConfig, features: str, image_size: int) -> nn.Module:
    """The encoder, or encoder and projector, as the seed gives them."""
    encoder = build_encoder(config, image_size=image_size)
    if features == "encoder":
        return encoder
    return nn.Sequential(encoder, build_projector(config, feature_dim=encoder.feature_dim))


def _check_takes(encoder: nn.Module, size: int, runtime: Runtime) -> None:
    """Raises RequestError where the encoder cannot take images of this size."""
    image_13SS = torch.zeros(1, 3, size, size, device=runtime.device)
    try:
        with frozen(encoder), runtime.autocast():
            encoder(image_13SS)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"the encoder takes no images of {size} x {size} pixels ({first}); resize them with "
            "dataset.image_size=N"
        ) from error


def _was_seen(data: DataSet, state: dict[str, Any] | None, weights: Weights) -> bool | None:
    """Whether pretraining saw these images, at any size; None: unknown, as for weights from other
    projects. For runs of earlier versions it is assumed."""
    if state is None:
        return False if weights is None else None
    before, now = state["about"].get("data"), data.fingerprint()
    if before is not None and before["image size"] != now["image size"]:
        # Of resized images the digests differ: classes, counts and labels tell.
        digests = {k: v for k, v in now["digests"].items() if k.endswith("labels")}
        now |= {"image size": before["image size"], "digests": digests}
    return before is None or difference(before, now) is None
