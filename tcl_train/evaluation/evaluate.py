"""All measures of one encoder on one data set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures every encoder in the same way.

    make_untrained: builds an untrained encoder, which is measured for comparison; None: not
    measured. mirror_features: measure :class:`MirrorMean` features. batch_size: of pretraining, for
    probes that train in batches of that size. seen: whether pretraining saw the training images.
    """

    data: DataSet
    probe: Probe
    augment: Augment
    runtime: Runtime
    make_untrained: Callable[[], nn.Module] | None
    seed: int
    batch_size: int
    mirror_features: bool
    seen: bool = True

    def measure(self, encoder: nn.Module) -> dict[str, Any]:
        """Linear probe and kNN of the frozen encoder, and the same probe of an untrained one.

        All accuracies are percent on the test split; None where the data set has no labels, and
        `random_encoder_top1` also where no untrained encoder is measured. `val_top1` is that of the
        linear probe on the validation images; None where none were kept out.
        """
        data = self.data
        if data.train is None or data.test is None:
            log.info("these images have no labels: no accuracy is measured")
            return dict.fromkeys(
                ("top1", "top5", "val_top1", "knn_top1", "random_encoder_top1", "probe", "knn")
            )
        log.info("evaluating: features of %d + %d images", len(data.train), len(data.test))
        trained = self._probe_input(encoder)
        result = self.probe(trained)
        knn = knn_top1(trained.train, trained.test, num_classes=len(data.classes))
        del trained
        random_top1 = None
        if self.make_untrained is not None:
            untrained = self.runtime.place(self.make_untrained())
            random_top1 = self.probe(self._probe_input(untrained)).top1
        return {
            "top1": result.top1,
            "top5": result.top5,
            "val_top1": result.val_top1,
            "knn_top1": knn,
            "random_encoder_top1": random_top1,
            "probe": {**result.protocol, "mirror_features": self.mirror_features},
            "knn": {"k": NEIGHBOURS, "temperature": TEMPERATURE, "similarity": "cosine"},
        }

    def _probe_input(self, encoder: nn.Module) -> ProbeInput:
        data, normalize = self.data, self.augment.normalize
        assert data.train is not None
        assert data.test is not None
        encoder = MirrorMean(encoder) if self.mirror_features else encoder
        validation = None
        if data.validation is not None:
            validation = extract(encoder, data.validation, normalize, self.runtime)
        return ProbeInput(
            encoder=encoder,
            train=extract(encoder, data.train, normalize, self.runtime),
            test=extract(encoder, data.test, normalize, self.runtime),
            validation=validation,
            train_split=data.train,
            num_classes=len(data.classes),
            augment=self.augment,
            runtime=self.runtime,
            seed=self.seed,
            batch_size=self.batch_size,
            seen=self.seen,
        )


def classifier_top1(
    method: Method, data: DataSet, normalize: Normalize, runtime: Runtime
) -> float | None:
    """Percent of the test split that a method's own classifier gets right; None where it has none
    or there are no labels."""
    if method.predict is None or data.test is None or data.test.labels_N is None:
        return None
    score_NK = apply_frozen(method, data.test, normalize, runtime, method.predict)
    return accuracy(score_NK, data.test.labels_N.to(runtime.device))
