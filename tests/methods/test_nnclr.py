"""NNCLR against the published equation, and its neighbours against lightly's.

lightly's examples take NT-Xent with the rows of both views as negatives; the paper takes those of
the prediction's view only, as here.

B: images; V: views; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcl_train.methods.nnclr import NNCLR, neighbour_contrast

TAU = 0.3


def loss_of(prediction_BD, neighbour_BD):
    return neighbour_contrast(F.normalize(prediction_BD), F.normalize(neighbour_BD), tau=TAU)


def published(prediction_BD, neighbour_BD):
    """Equation 2, row by row."""
    total = prediction_BD.new_zeros(())
    for i, n in enumerate(neighbour_BD):
        exps = [(torch.cosine_similarity(n, p, dim=0) / TAU).exp() for p in prediction_BD]
        total = total - (exps[i] / sum(exps)).log()
    return total / len(prediction_BD)


def test_it_is_the_published_loss(rows, assert_same_function):
    assert_same_function(loss_of, published, rows(7, 5), rows(7, 5, seed=1))


def test_it_is_the_cross_entropy_of_finding_the_own_prediction(rows, assert_same_function):
    """As in the paper's algorithm 1."""

    def cross_entropy(p_BD, n_BD):
        logit_BB = F.normalize(n_BD) @ F.normalize(p_BD).T / TAU
        return F.cross_entropy(logit_BB, torch.arange(len(p_BD)))

    assert_same_function(loss_of, cross_entropy, rows(7, 5), rows(7, 5, seed=1))


def test_neighbours_are_those_of_lightly(tiny_method, rows):
    bank = pytest.importorskip("lightly.models.modules").NNMemoryBankModule(size=(30, 5))
    m = tiny_method(NNCLR, queue=30, predictor_hidden_dim=4)
    bank.bank.copy_(m.queue.rows_SD)
    z_ND = F.normalize(rows(12, 5).detach().float())
    torch.testing.assert_close(m._nearest(z_ND), bank(z_ND))


def test_a_step_contrasts_the_neighbours_of_one_view_with_predictions_of_the_other(
    tiny_method, views
):
    m = tiny_method(NNCLR, tau=TAU, queue=30, predictor_hidden_dim=4).double()
    embeddings = m.embed([views(2).double()])
    step = m.compute_loss(embeddings, torch.arange(8), 0.0)
    p1, p2 = embeddings["prediction_ND"].split(8)
    n1, n2 = m._nearest(F.normalize(embeddings["z_ND"])).split(8)
    torch.testing.assert_close(step.loss, (loss_of(p2, n1) + loss_of(p1, n2)) / 2)


def test_no_gradient_goes_to_the_neighbours_or_their_rows(tiny_method, views):
    m = tiny_method(NNCLR, queue=30, predictor_hidden_dim=4)
    embeddings = {name: x.detach().requires_grad_() for name, x in m.embed([views(2)]).items()}
    m.compute_loss(embeddings, torch.arange(8), 0.0).loss.backward()
    assert embeddings["z_ND"].grad is None
    assert embeddings["prediction_ND"].grad.abs().sum() > 0
    assert not m.queue.rows_SD.requires_grad


def test_the_first_view_joins_the_queue_after_the_update(tiny_method, views):
    m = tiny_method(NNCLR, queue=20, predictor_hidden_dim=4)
    before = m.queue.rows_SD.clone()
    step = m([views(3)], torch.arange(8))
    assert torch.equal(m.queue.rows_SD, before)
    m.after_update(0.0)
    torch.testing.assert_close(m.queue.rows_SD[:8], F.normalize(step.rows_ND[:8]))
    assert torch.equal(m.queue.rows_SD[8:], before[8:])


def test_a_row_of_the_queue_is_its_own_neighbour(tiny_method):
    m = tiny_method(NNCLR, queue=30, predictor_hidden_dim=4)
    assert torch.equal(m._nearest(m.queue.rows_SD[3:9]), m.queue.rows_SD[3:9])


def test_the_chance_level_is_that_of_equal_predictions(tiny_method):
    m = tiny_method(NNCLR, queue=9, predictor_hidden_dim=4)
    equal = {"z_ND": torch.ones(16, 5), "prediction_ND": torch.ones(16, 5)}
    step = m.compute_loss(equal, torch.arange(8), 0.0)
    assert m.chance_level(step).item() == pytest.approx(step.loss.item(), rel=1e-6)
