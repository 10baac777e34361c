"""All measures of one encoder on one data set."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from tcl_train.data.augment import Augment
from tcl_train.data.dataset import DataSet
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.features import MirrorMean, accuracy, apply_frozen, extract
from tcl_train.evaluation.knn import NEIGHBOURS, TEMPERATURE, knn_top1
from tcl_train.evaluation.probe import Probe, ProbeInput
from tcl_train.methods.method import Method
from tcl_train.runtime.device import Runtime

log = logging.getLogger(__name__)


def evaluate(
    encoder: nn.Module,
    untrained: nn.Module | None,
    data: DataSet,
    probe: Probe,
    *,
    augment: Augment,
    runtime: Runtime,
    seed: int,
    batch_size: int,
    mirror_features: bool,
) -> dict[str, Any]:
    """Linear probe and kNN of a frozen encoder, and the same probe of an untrained one beside it;
    with `mirror_features` all of :class:`MirrorMean` features.

    All accuracies are percent on the test split; None where the data set has no labels, and
    `random_encoder_top1` also where no untrained encoder is given.
    """
    if data.train is None or data.test is None:
        log.info("these images have no labels: no accuracy is measured")
        return dict.fromkeys(("top1", "top5", "knn_top1", "random_encoder_top1", "probe", "knn"))

    def given(of: nn.Module) -> ProbeInput:
        assert data.train is not None
        assert data.test is not None
        of = MirrorMean(of) if mirror_features else of
        return ProbeInput(
            encoder=of,
            train=extract(of, data.train, augment.normalize, runtime),
            test=extract(of, data.test, augment.normalize, runtime),
            train_split=data.train,
            num_classes=len(data.classes),
            augment=augment,
            runtime=runtime,
            seed=seed,
            batch_size=batch_size,
        )

    log.info("evaluating: features of %d + %d images", len(data.train), len(data.test))
    trained = given(encoder)
    result = probe(trained)
    knn = knn_top1(trained.train, trained.test, num_classes=len(data.classes))
    del trained
    random_top1 = None
    if untrained is not None:
        random_top1 = probe(given(runtime.place(untrained))).top1
    return {
        "top1": result.top1,
        "top5": result.top5,
        "knn_top1": knn,
        "random_encoder_top1": random_top1,
        "probe": {**result.protocol, "mirror_features": mirror_features},
        "knn": {"k": NEIGHBOURS, "temperature": TEMPERATURE, "similarity": "cosine"},
    }


def classifier_top1(
    method: Method, data: DataSet, normalize: Normalize, runtime: Runtime
) -> float | None:
    """Percent of the test split that a method's own classifier gets right; None where it has none
    or there are no labels."""
    if method.predict is None or data.test is None or data.test.labels_N is None:
        return None
    score_NK = apply_frozen(method, data.test, normalize, runtime, method.predict)
    return accuracy(score_NK, data.test.labels_N.to(runtime.device))
