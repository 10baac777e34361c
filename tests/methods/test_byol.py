"""BYOL against lightly's loss and the published equations.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch

from tcl_train.methods.byol import BYOL, byol_loss
from tcl_train.methods.progress import along_cosine


def loss_of(p1, p2, t1, t2):
    return byol_loss(torch.stack([p1, p2]), torch.stack([t1, t2]).detach())


def four(rows):
    return [rows(8, 5, seed=s).detach().requires_grad_(s < 2) for s in range(4)]


def test_it_is_the_published_loss(rows, assert_same_function):
    """Equations 2 and 3: squared distances of unit rows, of both orders of the views."""
    p1, p2, t1, t2 = four(rows)

    def published(p1, p2):
        def distance(p_BD, t_BD):
            unit_p, unit_t = (x / x.norm(dim=1, keepdim=True) for x in (p_BD, t_BD))
            return (unit_p - unit_t).square().sum(1).mean()

        return distance(p1, t2) + distance(p2, t1)

    assert_same_function(lambda p1, p2: loss_of(p1, p2, t1, t2), published, p1, p2)


def test_it_is_four_more_than_twice_lightly_s_of_both_orders(rows, assert_same_function):
    """Their examples take half of D(p1, t2) + D(p2, t1) with D = -cos."""
    cosine = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    p1, p2, t1, t2 = four(rows)
    assert_same_function(
        lambda p1, p2: loss_of(p1, p2, t1, t2),
        lambda p1, p2: 4 + 2 * (cosine(p1, t2) + cosine(p2, t1)),
        *(p1, p2),
    )


def test_targets_get_no_gradient(rows):
    p_VBD, t_VBD = rows(2, 8, 5), rows(2, 8, 5, seed=1)
    of_p, of_t = torch.autograd.grad(byol_loss(p_VBD, t_VBD), [p_VBD, t_VBD], allow_unused=True)
    assert of_p.abs().sum() > 0
    assert of_t is None


def test_small_views_predict_and_are_no_targets(tiny_method, views):
    m = tiny_method(BYOL, predictor_hidden_dim=4)
    embeddings = m.embed([views(2), views(3, size=2)])
    assert len(embeddings["prediction_ND"]) == 5 * 8
    assert len(embeddings["target_MD"]) == 2 * 8
    p_VBD, t_VBD = (embeddings[name].unflatten(0, (-1, 8)) for name in list(embeddings)[1:])
    pairs = [(v, w) for v in range(5) for w in range(2) if v != w]
    one = [byol_loss(p_VBD[[v, v]], t_VBD[[w, w]]) for v, w in pairs]
    torch.testing.assert_close(byol_loss(p_VBD, t_VBD), sum(one) / len(pairs))


def test_the_teacher_follows_by_the_momentum_of_the_moment(tiny_method, views):
    m = tiny_method(BYOL, predictor_hidden_dim=4, momentum=0.5, momentum_end=0.9)
    before = [p.clone() for p in m.teacher.parameters()]
    with torch.no_grad():
        for p in m.parameters():
            p += 1
    with torch.no_grad():
        for p, value in zip(m.teacher.parameters(), before, strict=True):
            p.copy_(value)
    m.after_update(0.3)
    momentum = along_cosine(0.5, 0.9, 0.3)
    for p, value in zip(m.teacher.parameters(), before, strict=True):
        torch.testing.assert_close(p, momentum * value + (1 - momentum) * (value + 1))


def test_the_teacher_begins_as_the_student(tiny_method, views):
    m = tiny_method(BYOL, norm=True, predictor_hidden_dim=4)
    embeddings = m.embed([views(2)])
    assert torch.equal(embeddings["z_ND"], embeddings["target_MD"])
    assert not embeddings["target_MD"].requires_grad
