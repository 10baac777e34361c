"""All measures of one encoder on one data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from tcl_train.data.augment import Augment
from tcl_train.data.dataset import DataSet, Split
from tcl_train.data.normalize import Normalize
from tcl_train.evaluation.classification import classification
from tcl_train.evaluation.features import Features, MirrorMean, accuracy, apply_frozen, extract
from tcl_train.evaluation.geometry import geometry
from tcl_train.evaluation.knn import KNN
from tcl_train.evaluation.measure import Evaluated, FurtherMeasure, Measure
from tcl_train.evaluation.predictions import Predictions, predictions
from tcl_train.evaluation.probe import Probe, ProbeInput
from tcl_train.methods.method import Method
from tcl_train.runtime.device import Runtime

log = logging.getLogger(__name__)

# What comes first, and is None for a data set without labels, as the others are.
FIRST = ("top1", "top5", "val_top1", "knn_top1", "random_encoder_top1", "probe", "knn")
NAMES = (*FIRST, "calibration_error", "geometry", "per_class_top1")


class Measured(NamedTuple):
    """What an evaluation gives: values by name, as JSON has them, and the predictions for the test
    images; None where there are none."""

    values: dict[str, Any]
    predictions: Predictions | None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures every encoder in the same way.

    make_untrained: builds an untrained encoder, which is measured for comparison; None: not
    measured. mirror_features: measure :class:`MirrorMean` features. batch_size: of pretraining, for
    probes that train in batches of that size. seen: whether pretraining saw the training images;
    None: not known.
    further: measures beside those that every evaluation has.
    """

    data: DataSet
    probe: Probe
    augment: Augment
    runtime: Runtime
    make_untrained: Callable[[], nn.Module] | None
    seed: int
    batch_size: int
    mirror_features: bool
    knn: KNN = field(default_factory=KNN)
    further: Sequence[FurtherMeasure] = ()
    seen: bool | None = True

    def measure(self, encoder: nn.Module) -> Measured:
        """Probe, kNN and geometry of the frozen encoder, and the same probe of an untrained one.

        All accuracies are percent on the test split; None where the data set has no labels, and
        `random_encoder_top1` also where no untrained encoder is measured. `val_top1` is that of the
        probe on the validation images; None where none were kept out.
        """
        data = self.data
        if data.train is None or data.test is None:
            log.info("these images have no labels: no accuracy is measured")
            return Measured(dict.fromkeys(NAMES), None)
        log.info("evaluating: features of %d + %d images", len(data.train), len(data.test))
        of = self._evaluate(encoder, data.train, data.test)
        values: dict[str, Any] = {}
        measures: tuple[Measure, ...] = (classification, self.knn, geometry, *self.further)
        for measure in measures:
            values |= measure(of)
        predicted, protocol = predictions(of), of.classifier.protocol
        del of  # the features of both encoders need not fit into the memory
        values["random_encoder_top1"] = self._untrained_top1(data.train, data.test)
        values["probe"] = {**protocol, "mirror_features": self.mirror_features}
        return Measured({name: values[name] for name in (*FIRST, *values)}, predicted)

    def _evaluate(self, encoder: nn.Module, train: Split, test: Split) -> Evaluated:
        given = self._probe_input(encoder, train)
        validation_split = self.data.validation
        validation = None
        if validation_split is not None:
            validation = self._features(given.encoder, validation_split)
        features = self._features(given.encoder, test)
        classifier = self.probe(given)
        return Evaluated(
            given=given,
            probe=self.probe,
            classes=self.data.classes,
            test_split=test,
            test=features,
            validation_split=validation_split,
            validation=validation,
            classifier=classifier,
            score_NK=classifier.scores(given, test, features.x_ND),
        )

    def _untrained_top1(self, train: Split, test: Split) -> float | None:
        if self.make_untrained is None:
            return None
        given = self._probe_input(self.runtime.place(self.make_untrained()), train)
        classifier = self.probe(given)
        features = self._features(given.encoder, test)
        return accuracy(classifier.scores(given, test, features.x_ND), features.y_N)

    def _probe_input(self, encoder: nn.Module, train: Split) -> ProbeInput:
        encoder = MirrorMean(encoder) if self.mirror_features else encoder
        return ProbeInput(
            encoder=encoder,
            train=self._features(encoder, train),
            train_split=train,
            num_classes=len(self.data.classes),
            augment=self.augment,
            runtime=self.runtime,
            seed=self.seed,
            batch_size=self.batch_size,
            seen=self.seen,
        )

    def _features(self, encoder: nn.Module, split: Split) -> Features:
        return extract(encoder, split, self.augment.normalize, self.runtime)


def classifier_top1(
    method: Method, data: DataSet, normalize: Normalize, runtime: Runtime
) -> float | None:
    """Percent of the test split that a method's own classifier gets right; None where it has none
    or there are no labels."""
    if method.predict is None or data.test is None or data.test.labels_N is None:
        return None
    score_NK = apply_frozen(method, data.test, normalize, runtime, method.predict)
    return accuracy(score_NK, data.test.labels_N.to(runtime.device))
