"""DINO against lightly's loss, and its centre, temperatures and teacher.

B: images; V: views; K: prototypes; D: embedding dimensions.
"""

from __future__ import annotations

import math

import pytest
import torch

from tcl_train.methods.dino import DINO

LABELS_B = torch.arange(8)
# lightly takes temperatures in float32, where this one is exact.
TEACHER_TAU = 0.0625
FEW = {"prototypes": 6, "teacher_tau": TEACHER_TAU, "teacher_tau_start": 0.04}


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize(("large", "small"), [(2, 0), (3, 0), (2, 4), (1, 1)])
def test_it_is_the_loss_of_lightly(large, small, tiny_method, rows, assert_same_function):
    m = tiny_method(DINO, **FEW).double()
    m.centre_K.copy_(torch.linspace(-0.1, 0.1, 6))
    target_MD = rows(8 * large, 5, seed=1).detach()
    loss = pytest.importorskip("lightly.loss").DINOLoss(6, student_temp=0.1).double()

    def ours(z_ND, _):
        embeddings = {"z_ND": z_ND, "target_MD": target_MD}
        return m.compute_loss(embeddings, LABELS_B, 1.0).loss

    def theirs(z_ND, _):
        loss.center.copy_(m.centre_K.expand(1, 1, 6))
        of_teacher = list(m.teacher_prototypes(target_MD).split(8))
        return loss(of_teacher, list(m.prototypes(z_ND).split(8)), teacher_temp=TEACHER_TAU)

    assert_same_function(ours, theirs, rows(8 * (large + small), 5), m.prototypes.weight)


def test_it_is_the_published_loss(tiny_method, rows, assert_same_function):
    """Algorithm 1: H(t1, s2)/2 + H(t2, s1)/2 with the centre subtracted and both sharpened."""
    m = tiny_method(DINO, **FEW).double()
    m.centre_K.copy_(torch.linspace(-0.1, 0.1, 6))
    target_MD = rows(16, 5, seed=1).detach()

    def ours(z_ND):
        return m.compute_loss({"z_ND": z_ND, "target_MD": target_MD}, LABELS_B, 1.0).loss

    def published(z_ND):
        def h(t_BK, s_BK):
            t_BK = torch.softmax((t_BK - m.centre_K) / TEACHER_TAU, dim=1)
            return -(t_BK * torch.softmax(s_BK / 0.1, dim=1).log()).sum(1).mean()

        (t1, t2), (s1, s2) = m.prototypes(target_MD).split(8), m.prototypes(z_ND).split(8)
        return h(t1.detach(), s2) / 2 + h(t2.detach(), s1) / 2

    assert_same_function(ours, published, rows(16, 5))


def test_no_gradient_goes_to_the_teacher(tiny_method, views):
    m = tiny_method(DINO, **FEW)
    embeddings = {name: x.detach().requires_grad_() for name, x in m.embed([views(2)]).items()}
    m.compute_loss(embeddings, LABELS_B, 0.0).loss.backward()
    assert embeddings["target_MD"].grad is None
    assert embeddings["z_ND"].grad.abs().sum() > 0
    assert m.teacher_prototypes.network.weight.grad is None


# ------------------------------------------------------------------ centre and temperatures


def test_the_centre_is_a_running_mean_of_the_teacher_s_scores(tiny_method, views):
    m = tiny_method(DINO, **FEW, centre_momentum=0.75)
    expected = torch.zeros(6)
    for seed in (1, 2, 3):
        x_NCHW = views(2, seed=seed)
        score_MK = m.teacher_prototypes(m.teacher(x_NCHW))
        m([x_NCHW], LABELS_B)
        torch.testing.assert_close(m.centre_K, expected)  # it changes after the update
        m.after_update(0.0)
        expected = 0.75 * expected + 0.25 * score_MK.mean(0)
        torch.testing.assert_close(m.centre_K, expected)
    before = m.centre_K.clone()
    m.after_update(0.0)  # without a loss between
    assert torch.equal(m.centre_K, before)


def test_the_centre_keeps_one_prototype_from_taking_all(tiny_method):
    """A constant added to one score of all rows is taken away by the centre in time."""
    m = tiny_method(DINO, **FEW, centre_momentum=0.0)
    rows = {"z_ND": torch.ones(16, 5), "target_MD": torch.ones(16, 5)}
    m.compute_loss(rows, LABELS_B, 0.0)
    m.after_update(0.0)
    score_K = m.teacher_prototypes(torch.ones(1, 5))[0]
    torch.testing.assert_close(m.centre_K, score_K)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.04), (0.1, 0.05), (0.15, 0.055), (0.3, 0.07), (1.0, 0.07)]
)
def test_the_teacher_s_temperature_rises_along_a_line(progress, expected, tiny_method):
    m = tiny_method(DINO, prototypes=6, teacher_tau_warmup=0.3)
    assert m.teacher_tau_at(progress) == pytest.approx(expected)


def test_without_warm_up_the_temperature_is_the_last_one(tiny_method):
    assert tiny_method(DINO, **FEW).teacher_tau_at(0.0) == TEACHER_TAU


# ------------------------------------------------------------------ prototypes and teacher


def test_frozen_prototypes_get_no_gradient(tiny_method, views):
    m = tiny_method(DINO, **FEW, frozen_until=0.5)
    for progress, frozen in ((0.49, True), (0.5, False)):
        m([views(2)], LABELS_B, progress).loss.backward()
        m.before_update(progress)
        assert (m.prototypes.weight.grad is None) == frozen


def test_the_teacher_s_prototypes_follow(tiny_method):
    m = tiny_method(DINO, **FEW, momentum=0.75, momentum_end=0.75)
    before = m.teacher_prototypes.network.weight.clone()
    assert torch.equal(before, m.prototypes.weight)
    with torch.no_grad():
        m.prototypes.weight += 1
    m.after_update(0.0)
    torch.testing.assert_close(m.teacher_prototypes.network.weight, before + 0.25)


def test_equal_rows_have_no_information(tiny_method):
    m = tiny_method(DINO, **FEW)
    rows = {"z_ND": torch.ones(16, 5), "target_MD": torch.ones(16, 5)}
    step = m.compute_loss(rows, LABELS_B, 0.0)
    assert step.scalars["assignment_information"].item() == pytest.approx(0, abs=1e-5)
    assert m.chance_level(step).item() == pytest.approx(math.log(6))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("teacher_tau", 0.0), ("teacher_tau_warmup", 1.5), ("centre_momentum", -1.0)),
        *(("frozen_until", 2.0), ("prototypes", 1), ("tau", 0.0)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value, tiny_method):
    with pytest.raises(ValueError, match=name):
        tiny_method(DINO, **{**FEW, name: value})
