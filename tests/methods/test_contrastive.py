"""The contrastive training step.

B: images; V: views; N = V x B rows; D: embedding dimensions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tcl_train.losses import TCL, NTXent, SupCon, gradient_response
from tcl_train.methods.contrastive import Contrastive
from tcl_train.methods.diagnostics import embedding_statistics
from tcl_train.methods.method import StepOutput, labels_of_views


def method(loss=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
        projector = nn.Linear(6, 4)
    return Contrastive(encoder=encoder, projector=projector, loss=loss or SupCon(), num_classes=3)


def views(views_, images=4):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(views_ * images, 3, 2, 2, generator=draw)


LABELS_B = torch.tensor([0, 1, 0, 2])


def test_labels_are_repeated_view_after_view():
    assert labels_of_views(torch.tensor([5, 7, 9]), 6).tolist() == [5, 7, 9, 5, 7, 9]
    assert labels_of_views(torch.tensor([5, 7, 9]), 3).tolist() == [5, 7, 9]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_step_is_the_loss_of_the_projected_views(count):
    m = method()
    x_NCHW = views(count)
    step = m(x_NCHW, LABELS_B)
    z_ND = m.projector(m.encoder(x_NCHW))
    labels_N = torch.cat([LABELS_B] * count)
    assert torch.equal(step.labels_N, labels_N)
    assert torch.equal(step.rows_ND, z_ND)
    assert torch.equal(step.loss, SupCon()(z_ND, labels_N))


def test_unlabelled_views_of_one_image_are_positives():
    """Each image has a value of its own; row b and row B + b are its two views."""
    m = method(NTXent())
    x_NCHW = views(1).repeat(2, 1, 1, 1)
    step = m(x_NCHW, torch.arange(4))
    assert torch.equal(step.rows_ND[:4], step.rows_ND[4:])
    swapped = m.loss(step.rows_ND, torch.arange(4).repeat_interleave(2))
    assert step.loss < swapped


def test_the_gradient_reaches_encoder_and_projector():
    m = method()
    m(views(2), LABELS_B).loss.backward()
    for parameter in m.parameters():
        assert parameter.grad is not None
    assert m.encoder[1].weight.grad.abs().sum() > 0
    assert m.projector.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tau", [0.07, 0.5])
@pytest.mark.parametrize("form", ["out", "in"])
def test_the_chance_level_of_supcon_is_ln_of_the_other_rows(form, tau):
    m = method(SupCon(tau=tau, form=form))
    level = m.chance_level(m(views(2), LABELS_B))
    assert level.item() == pytest.approx(math.log(7), rel=1e-6)
    assert not level.requires_grad


def test_the_chance_level_of_tcl_counts_its_weights():
    """One view; the pair of class 0 sees one positive and two negatives, all equal."""
    m = method(TCL(tau=0.5, k1=10.0, k2=3.0))
    level = m.chance_level(m(views(1), LABELS_B))
    expected = math.log((math.exp(2) + 10 * math.exp(-1) + 3 * 2 * math.exp(2)) / math.exp(2))
    assert level.item() == pytest.approx(expected, rel=1e-6)


def test_collapsed_embeddings_are_at_the_chance_level():
    """What the warning about collapse compares."""
    m = method()
    nn.init.zeros_(m.projector.weight)
    step = m(views(2), LABELS_B)
    torch.testing.assert_close(step.loss, m.chance_level(step))


def test_it_learns_without_labels_and_predicts_nothing():
    assert Contrastive.needs_labels is False
    assert method().predict is None


def test_only_encoder_and_projector_are_saved():
    kept = {name.split(".")[0] for name in method(TCL()).state_dict()}
    assert kept == {"encoder", "projector"}


def test_a_step_is_a_loss_with_rows_labels_and_scalars():
    assert StepOutput._fields == ("loss", "rows_ND", "labels_N", "scalars", "progress")


def test_diagnostics_are_of_the_embeddings_and_of_the_losss_answer():
    """The figure of the paper: mean gradients by similarity from positives and negatives."""
    m = method(TCL(tau=0.5, k1=10.0, k2=3.0))
    step = m(views(2), LABELS_B)
    found = m.diagnostics(step)
    response = gradient_response(m.loss, step.rows_ND, step.labels_N)
    expected = {
        "chance_level": m.chance_level(step),
        **embedding_statistics(step.rows_ND, step.labels_N),
        "anchors": torch.tensor(float(len(step.labels_N))),
        "gradient_from_positives": response.positive,
        "gradient_from_negatives": response.negative,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach())
    assert not any(value.requires_grad for value in found.values())


def test_k1_grows_with_the_run():
    """The loss, its chance level and its answer are those of the k1 of the step."""
    x_NCHW = views(2)
    for progress, k1 in [(0.0, 0.0), (0.1, 25.0), (0.2, 50.0), (1.0, 50.0)]:
        m, at_k1 = method(TCL(tau=0.5, k1=50.0, k1_warmup=0.2)), method(TCL(tau=0.5, k1=k1))
        step, expected = m(x_NCHW, LABELS_B, progress), at_k1(x_NCHW, LABELS_B)
        assert torch.equal(step.loss, expected.loss)
        found, wanted = m.diagnostics(step), at_k1.diagnostics(expected)
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name


def test_the_advice_is_that_of_the_loss_or_of_the_method():
    assert "k1_warmup_epochs" in method(TCL()).when_collapsed
    assert method(SupCon()).when_collapsed == Contrastive.when_collapsed
