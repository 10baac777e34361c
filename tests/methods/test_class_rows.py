"""Contrastive pretraining with learned class rows.

B: images; K: classes; N: rows; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcl_train.losses import TCL, CrossEntropy, SupCon
from tcl_train.methods.class_rows import ClassRows

LABELS_B = torch.tensor([0, 1, 0, 2])


def method(copies=2, loss=None, projector=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
        encoder.feature_dim = 6
        return ClassRows(
            copies=copies,
            encoder=encoder,
            projector=nn.Linear(6, 4) if projector is None else projector,
            loss=loss or SupCon(),
            num_classes=3,
        )


def images(count=4):
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("copies", [1, 3])
def test_the_loss_is_that_of_the_images_and_the_class_rows(copies):
    m = method(copies, TCL())
    step = m(images(), LABELS_B)
    z_ND = m.projector(m.encoder(images()))
    rows = torch.cat([z_ND] + [m.row_KD] * copies)
    labels = torch.cat([LABELS_B] + [torch.arange(3)] * copies)
    torch.testing.assert_close(step.loss, TCL()(rows, labels))


def test_what_is_looked_at_is_the_images():
    step = method()(images(), LABELS_B)
    assert step.rows_ND.shape == (4, 4)
    assert torch.equal(step.labels_N, LABELS_B)


def test_class_rows_learn_and_are_stored():
    m = method()
    m(images(), LABELS_B).loss.backward()
    assert m.row_KD.grad.abs().sum() > 0
    assert "row_KD" in m.state_dict()


def test_each_image_has_a_positive_even_alone_of_its_class():
    step = method()(images(3), torch.tensor([0, 1, 2]))
    assert step.loss > 0


def test_chance_is_the_loss_of_equal_rows_class_rows_included():
    m = method(copies=2, loss=SupCon())
    step = m(images(), LABELS_B)
    torch.testing.assert_close(m.chance_level(step).item(), torch.tensor(4 + 6 - 1.0).log().item())


def test_without_a_projector_rows_are_as_long_as_features():
    assert method(projector=nn.Identity()).row_KD.shape == (3, 6)


def test_no_copies_are_refused():
    with pytest.raises(ValueError, match="copies"):
        method(copies=0)


def test_a_loss_over_classes_is_refused():
    with pytest.raises(
        TypeError, match=r"pairs of rows, got CrossEntropy; .*the method that goes with it"
    ):
        method(loss=CrossEntropy())
