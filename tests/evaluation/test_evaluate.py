from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tcl_train.evaluation.evaluate import Evaluator, classifier_top1
from tcl_train.evaluation.lbfgs import LBFGSProbe
from tcl_train.losses import CrossEntropy
from tcl_train.methods.cross_entropy import CrossEntropyClassifier


def _evaluate(data, augment, encoder, untrained, runtime, *, mirror_features=False) -> dict:
    evaluator = Evaluator(
        data=data,
        probe=LBFGSProbe(),
        augment=augment,
        runtime=runtime,
        make_untrained=None if untrained is None else lambda: untrained,
        seed=1,
        batch_size=32,
        mirror_features=mirror_features,
    )
    return evaluator.measure(encoder).values


def test_measures_of_the_encoder_and_of_an_untrained_one(data, augment, encoder, runtime) -> None:
    before = copy.deepcopy(encoder.state_dict())
    blind = copy.deepcopy(encoder)
    for parameter in blind.parameters():
        torch.nn.init.zeros_(parameter)
    measures = _evaluate(data, augment, encoder, blind, runtime)
    assert measures["top1"] > 60
    assert measures["knn_top1"] > 60
    assert measures["random_encoder_top1"] == pytest.approx(100 / 3)  # sees nothing: one class
    assert measures["knn"] == {"k": 20, "temperature": 0.07, "similarity": "cosine"}
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


class LeftHalf(torch.nn.Module):
    """Sees the left half of an image only."""

    def forward(self, x_NCHW):
        return x_NCHW[..., : x_NCHW.shape[3] // 2].mean((2, 3))


def test_mirror_features_see_both_sides(data, augment, runtime) -> None:
    """Of test images whose left half is grey, half an encoder can say nothing."""
    data.test.images.images_NCHW[..., :3] = 100
    alone = _evaluate(data, augment, LeftHalf(), None, runtime)
    both = _evaluate(data, augment, LeftHalf(), None, runtime, mirror_features=True)
    assert alone["top1"] == pytest.approx(100 / 3)
    assert both["top1"] > 60
    assert both["knn_top1"] > 60
    assert not alone["probe"]["mirror_features"]
    assert both["probe"]["mirror_features"]


def test_without_an_untrained_encoder_its_measure_is_null(data, augment, encoder, runtime) -> None:
    assert _evaluate(data, augment, encoder, None, runtime)["random_encoder_top1"] is None


def test_without_labels_all_measures_are_null(data, augment, encoder, runtime) -> None:
    unlabelled = replace(data, train=None, test=None)
    measures = _evaluate(unlabelled, augment, encoder, encoder, runtime)
    assert set(measures.values()) == {None}
    assert "top1" in measures


def test_a_classifier_is_scored_by_its_own_predictions(data, augment, encoder, runtime) -> None:
    encoder.feature_dim = 8
    method = CrossEntropyClassifier(
        encoder=encoder, projector=torch.nn.Identity(), loss=CrossEntropy(), num_classes=3
    )
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert classifier_top1(method, data, augment.normalize, runtime) == pytest.approx(100 / 3)
