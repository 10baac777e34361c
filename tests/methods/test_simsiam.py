"""SimSiam against lightly's loss and the published equations.

B: images; V: views; D: embedding dimensions.
"""

from __future__ import annotations

import pytest
import torch

from tcl_train.methods.simsiam import SimSiam, simsiam_loss


def loss_of(*rows):
    """Of the predictions of two views and their projections."""
    p1, p2, z1, z2 = rows
    return simsiam_loss(torch.stack([p1, p2]), torch.stack([z1, z2]))


def of_detached(distance):
    """Algorithm 1: L = D(p1, z2)/2 + D(p2, z1)/2, where D stops the gradient of z."""

    def loss(p1, p2, z1, z2):
        nothing = 0 * (z1 + z2).sum()
        return distance(p1, z2.detach()) / 2 + distance(p2, z1.detach()) / 2 + nothing

    return loss


def published(p_BD, z_BD):
    products = (p_BD * z_BD).sum(1)
    return -(products / p_BD.norm(dim=1) / z_BD.norm(dim=1)).mean()


def four(rows):
    return [rows(8, 5, seed=s) for s in range(4)]


def with_unused(*rows):
    return loss_of(*rows) + 0 * sum(z.sum() for z in rows[2:])


def test_it_is_the_published_loss(rows, assert_same_function):
    assert_same_function(with_unused, of_detached(published), *four(rows))


def test_it_is_the_loss_of_lightly(rows, assert_same_function):
    theirs = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    assert_same_function(with_unused, of_detached(theirs), *four(rows))


def test_no_gradient_goes_to_projections(rows):
    z = four(rows)
    of_p, of_z = torch.autograd.grad(loss_of(*z), [z[0], z[2]], allow_unused=True)
    assert of_p.abs().sum() > 0
    assert of_z is None


def test_the_gradient_of_the_projector_comes_through_the_predictor_only(tiny_method, views):
    m = tiny_method(SimSiam, predictor_hidden_dim=4)
    embeddings = m.embed([views(2)])
    assert not embeddings["z_ND"].requires_grad
    with torch.no_grad():
        m.predictor[-1].weight.zero_()
    m([views(2)], torch.arange(8)).loss.backward()
    assert m.projector[-1].weight.grad.abs().max() == 0


def test_of_several_views_it_is_the_mean_over_pairs(rows):
    p_VBD, z_VBD = rows(3, 8, 5), rows(3, 8, 5, seed=1)
    pairs = [(v, w) for v in range(3) for w in range(3) if v != w]
    expected = sum(published(p_VBD[v], z_VBD[w]) for v, w in pairs) / 6
    torch.testing.assert_close(simsiam_loss(p_VBD, z_VBD), expected)


def test_it_is_minus_one_where_predictions_are_right(rows):
    z_BD = rows(8, 5)
    assert simsiam_loss(torch.stack([z_BD, z_BD]), torch.stack([z_BD, 3 * z_BD])).item() == (
        pytest.approx(-1)
    )


def test_only_the_predictor_keeps_its_rate(tiny_method):
    m = tiny_method(SimSiam, predictor_hidden_dim=4)
    groups = {group.fixed_lr: group.parameters for group in m.parameter_groups()}
    assert {id(p) for p in groups[True]} == {id(p) for p in m.predictor.parameters()}
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in m.parameters()}
