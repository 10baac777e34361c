"""MoCo v2 against lightly's loss and the published equation.

B: images; V: views; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcl_train.methods.mocov2 import MoCoV2, queue_contrast

TAU = 0.3


def loss_of(query_BD, key_BD, queue_SD):
    rows = (F.normalize(z) for z in (query_BD, key_BD, queue_SD))
    return queue_contrast(*rows, tau=TAU)


def test_it_is_the_published_loss(rows, assert_same_function):
    """Equation 1, query by query."""

    def published(query_BD, key_BD, queue_SD):
        total = query_BD.new_zeros(())
        for q, k in zip(query_BD, key_BD, strict=True):
            positive = torch.cosine_similarity(q, k, dim=0)
            others = [torch.cosine_similarity(q, n, dim=0) for n in queue_SD]
            exps = [(s / TAU).exp() for s in (positive, *others)]
            total = total - (exps[0] / sum(exps)).log()
        return total / len(query_BD)

    z = rows(6, 5), rows(6, 5, seed=1), rows(9, 5, seed=2)
    assert_same_function(loss_of, published, *z)


def test_it_is_the_loss_of_lightly_with_a_memory_bank(rows, assert_same_function):
    queue_SD = F.normalize(rows(9, 5, seed=2).detach())
    theirs = pytest.importorskip("lightly.loss").NTXentLoss(TAU, memory_bank_size=(9, 5)).double()

    def with_this_bank(query_BD, key_BD):
        theirs.memory_bank.bank.copy_(queue_SD)
        return theirs(query_BD, key_BD)

    z = rows(6, 5), rows(6, 5, seed=1)
    assert_same_function(lambda q, k: loss_of(q, k, queue_SD), with_this_bank, *z)


def test_a_step_is_the_mean_over_both_orders(tiny_method, views):
    m = tiny_method(MoCoV2, tau=TAU, queue=16).double()
    embeddings = m.embed([views(2).double()])
    step = m.compute_loss(embeddings, torch.arange(8), 0.0)
    (q1, q2), (k1, k2) = (embeddings[name].split(8) for name in ("z_ND", "key_ND"))
    both = loss_of(q1, k2, m.queue.rows_SD) + loss_of(q2, k1, m.queue.rows_SD)
    torch.testing.assert_close(step.loss, both / 2)


def test_keys_join_the_queue_after_the_update_and_get_no_gradient(tiny_method, views):
    m = tiny_method(MoCoV2, queue=20)
    before = m.queue.rows_SD.clone()
    embeddings = m.embed([views(2)])
    embeddings["key_ND"] = embeddings["key_ND"].clone().requires_grad_()
    m.compute_loss(embeddings, torch.arange(8), 0.0).loss.backward()
    assert embeddings["key_ND"].grad is None
    assert torch.equal(m.queue.rows_SD, before)
    m.after_update(0.0)
    keys_ND = F.normalize(embeddings["key_ND"].detach())
    torch.testing.assert_close(m.queue.rows_SD[:16], keys_ND)
    assert torch.equal(m.queue.rows_SD[16:], before[16:])
    pushed = m.queue.rows_SD.clone()
    m.after_update(0.0)  # without a loss between there is nothing to push
    assert torch.equal(m.queue.rows_SD, pushed)


@pytest.mark.parametrize("own", [True, False])
def test_a_key_depends_on_the_rows_beside_it_only_with_statistics_of_its_own(
    own, tiny_method, views
):
    m = tiny_method(MoCoV2, norm=True, queue=4, own_statistics=own).train()
    both = m.embed([views(2)])["key_ND"]
    alone = torch.cat([m.embed([x_NCHW])["key_ND"] for x_NCHW in views(2).split(4)])
    assert torch.allclose(alone, both, atol=1e-6) != own


def test_at_chance_a_query_is_lost_among_the_queue(rows):
    equal = torch.ones(6, 5)
    value = loss_of(equal, equal, torch.ones(9, 5))
    assert value.item() == pytest.approx(torch.tensor(10.0).log().item())


def test_the_chance_level_is_that_of_equal_rows(tiny_method):
    m = tiny_method(MoCoV2, queue=9)
    m.queue.rows_SD.copy_(F.normalize(torch.ones(9, 5)))
    equal = {"z_ND": torch.ones(16, 5), "key_ND": torch.ones(16, 5)}
    step = m.compute_loss(equal, torch.arange(8), 0.0)
    assert m.chance_level(step).item() == pytest.approx(step.loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("queue", 0), ("tau", 0.0), ("momentum", 1.1), ("momentum_end", -0.1)]
)
def test_settings_out_of_range_are_refused_by_name(name, value, tiny_method):
    with pytest.raises(ValueError, match=name):
        tiny_method(MoCoV2, **{name: value})
