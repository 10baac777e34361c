"""The cross-entropy baseline's training step."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tcl_train.losses import CrossEntropy
from tcl_train.methods.cross_entropy import CrossEntropyClassifier

LABELS_B = torch.tensor([0, 4, 2])


class Flat(nn.Module):
    """The smallest encoder."""

    feature_dim = 12

    def forward(self, x_NCHW):
        return x_NCHW.flatten(1)


def classifier(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CrossEntropyClassifier(
            encoder=Flat(),
            projector=nn.Linear(12, 3),
            loss=CrossEntropy(**options),
            num_classes=5,
        )


def images(n=3):
    return torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_predict_gives_a_score_a_class():
    method = classifier()
    expected = images().flatten(1) @ method.classifier.weight.T + method.classifier.bias
    torch.testing.assert_close(method.predict(images()), expected)
    assert method.predict(images()).shape == (3, 5)


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_is_the_loss_of_the_predictions_of_every_view(count):
    method = classifier()
    views_NCHW = images(3 * count)
    step = method(views_NCHW, LABELS_B)
    labels_N = torch.cat([LABELS_B] * count)
    torch.testing.assert_close(step.loss, F.cross_entropy(method.predict(views_NCHW), labels_N))
    assert torch.equal(step.labels_N, labels_N)


def test_diagnostics_see_the_features():
    assert torch.equal(classifier()(images(), LABELS_B).rows_ND, images().flatten(1))


def test_the_projector_is_not_part_of_it():
    """Neither trained nor saved: an unused parameter would be an error across processes."""
    assert set(classifier().state_dict()) == {"classifier.weight", "classifier.bias"}


def test_training_lowers_the_loss_to_the_labels():
    method = classifier()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        method(images(), LABELS_B).loss.backward()
        optimizer.step()
    assert torch.equal(method.predict(images()).argmax(1), LABELS_B)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_chance_level_is_ln_of_the_classes(smoothing):
    """Also with smoothing: even scores give ln K against any target."""
    method = classifier(label_smoothing=smoothing)
    nn.init.zeros_(method.classifier.weight)
    nn.init.zeros_(method.classifier.bias)
    step = method(images(), LABELS_B)
    level = method.chance_level(step)
    assert level.item() == pytest.approx(math.log(5))
    torch.testing.assert_close(step.loss.detach(), level)


def test_it_needs_labels():
    assert CrossEntropyClassifier.needs_labels is True
