"""SwAV against lightly's loss, and what its assignments keep to.

B: images; V: views; K: prototypes; D: embedding dimensions; S: rows of the queue.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tcl_train.methods.prototypes import assignment_information
from tcl_train.methods.swav import SwAV, sinkhorn

LABELS_B = torch.arange(8)
FEW = {"prototypes": 6, "queue": 0}


def scores(n, k=6, seed=0):
    return 2 * torch.rand(n, k, generator=torch.Generator().manual_seed(seed)).double() - 1


# ------------------------------------------------------------------ assignments


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_assignments_are_those_of_lightly(epsilon, iterations):
    theirs = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    ours = sinkhorn(scores(20), epsilon=epsilon, iterations=iterations)
    torch.testing.assert_close(ours, theirs(scores(20), iterations, epsilon), rtol=1e-9, atol=1e-12)


def test_assignments_are_those_of_the_algorithm():
    """Listing 1 of the paper's appendix: Q = exp(scores / eps).T, scaled in turn to rows of 1/K and
    columns of 1/B."""
    q_KN = (scores(20) / 0.2).exp().T
    q_KN = q_KN / q_KN.sum()
    for _ in range(3):
        q_KN = q_KN / q_KN.sum(1, keepdim=True) / len(q_KN)
        q_KN = q_KN / q_KN.sum(0, keepdim=True) / q_KN.shape[1]
    torch.testing.assert_close(sinkhorn(scores(20), epsilon=0.2, iterations=3), 20 * q_KN.T)


@pytest.mark.parametrize("n", [3, 6, 20])
def test_each_row_sums_to_one_and_each_prototype_is_used_alike(n):
    share_NK = sinkhorn(scores(n), epsilon=0.5, iterations=200)
    torch.testing.assert_close(share_NK.sum(1), torch.ones(n).double())
    torch.testing.assert_close(share_NK.sum(0), torch.full((6,), n / 6).double())


def test_rows_sum_to_one_after_any_number_of_iterations():
    share_NK = sinkhorn(scores(20), epsilon=0.01, iterations=1)
    torch.testing.assert_close(share_NK.sum(1), torch.ones(20).double())


def test_no_exponential_overflows():
    share_NK = sinkhorn(1000 * scores(20).float(), epsilon=0.05, iterations=3)
    assert share_NK.isfinite().all()


def test_rows_that_do_not_count_change_nothing_for_the_others():
    counts_N = torch.arange(20) < 12
    share_NK = sinkhorn(scores(20), epsilon=0.2, iterations=3, counts_N=counts_N)
    alone = sinkhorn(scores(20)[:12], epsilon=0.2, iterations=3)
    torch.testing.assert_close(share_NK[:12], alone)


# ------------------------------------------------------------------ the loss


def theirs_of(m, z_ND, *, large, queue_SD=None):
    """lightly's loss of a method's scores; their queues are one a view."""
    score = m.prototypes(z_ND).split(len(LABELS_B))
    queue = None if queue_SD is None else [m.prototypes(queue_SD)] * large
    loss = pytest.importorskip("lightly.loss").SwaVLoss(m.tau, m.iterations, m.epsilon)
    return loss(list(score[:large]), list(score[large:]), queue)


@pytest.mark.parametrize(("large", "small"), [(2, 0), (3, 0), (2, 4), (1, 1)])
def test_it_is_the_loss_of_lightly(large, small, tiny_method, rows, assert_same_function):
    m = tiny_method(SwAV, **FEW).double()
    z_ND = rows(8 * (large + small), 5)

    def ours(z_ND, _):
        z = z_ND.split([8 * large, 8 * small])
        embeddings = (
            {"large_MD": z[0]} if small == 0 else dict(zip(("large_MD", "s"), z, strict=True))
        )
        return m.compute_loss(embeddings, LABELS_B, 0.0).loss

    def theirs(z_ND, _):
        return theirs_of(m, z_ND, large=large)

    assert_same_function(ours, theirs, z_ND, m.prototypes.weight)


def test_with_a_queue_it_is_the_loss_of_lightly(tiny_method, rows, assert_same_function):
    m = tiny_method(SwAV, prototypes=6, queue=12).double()
    m.queue.push(F.normalize(rows(12, 5, seed=3)))

    def ours(z_ND, _):
        return m.compute_loss({"large_MD": z_ND}, LABELS_B, 0.0).loss

    def theirs(z_ND, _):
        return theirs_of(m, z_ND, large=2, queue_SD=m.queue.rows_SD)

    assert_same_function(ours, theirs, rows(16, 5), m.prototypes.weight)


def test_a_queue_that_is_not_full_gives_the_rows_that_it_has(tiny_method, rows):
    """Not the random ones that it begins with."""
    z_ND, few = rows(16, 5), F.normalize(rows(4, 5, seed=3)).detach()
    whole, part, none = (tiny_method(SwAV, prototypes=6, queue=n).double() for n in (4, 9, 0))
    for m in (whole, part):
        m.prototypes.load_state_dict(none.prototypes.state_dict())
        m.queue.push(few)
    losses = [m.compute_loss({"large_MD": z_ND}, LABELS_B, 0.0).loss for m in (whole, part)]
    torch.testing.assert_close(*losses)
    part.queue.pushed.zero_()
    empty, without = (m.compute_loss({"large_MD": z_ND}, LABELS_B, 0.0).loss for m in (part, none))
    torch.testing.assert_close(empty, without)
    assert abs(empty - losses[0]) > 1e-4


def test_the_queue_is_used_from_its_time_on_and_filled_from_the_start(tiny_method, views):
    m = tiny_method(SwAV, prototypes=6, queue=32, queue_from=0.5)
    without = tiny_method(SwAV, **FEW)
    without.prototypes.load_state_dict(m.prototypes.state_dict())
    x, y = [views(2)], [views(2, seed=2)]
    m(x, LABELS_B)
    m.prototypes.weight.grad = None
    m.frozen_until = 1.0  # so that only the queue changes
    m.after_update(0.0)
    assert m.queue.pushed == 16
    expected = without(y, LABELS_B).loss
    torch.testing.assert_close(m(y, LABELS_B, 0.49).loss, expected)
    assert abs(m(y, LABELS_B, 0.5).loss - expected) > 1e-4


def test_no_gradient_goes_to_the_assignments(tiny_method, rows):
    """With them held constant the gradient is that of the cross-entropies alone."""
    m = tiny_method(SwAV, **FEW).double()
    z_ND = rows(16, 5)
    (gradient,) = torch.autograd.grad(m.compute_loss({"large_MD": z_ND}, LABELS_B, 0.0).loss, z_ND)
    score = m.prototypes(z_ND).split(8)
    share = [sinkhorn(s.detach(), epsilon=0.05, iterations=3) for s in score]
    assert not any(s.requires_grad for s in share)
    one, other = (
        -(q * (s / 0.1).log_softmax(1)).sum(1).mean()
        for q, s in zip(share, reversed(score), strict=True)
    )
    torch.testing.assert_close(gradient, torch.autograd.grad((one + other) / 2, z_ND)[0])


# ------------------------------------------------------------------ prototypes


def test_frozen_prototypes_get_no_gradient_and_do_not_change(tiny_method, views):
    m = tiny_method(SwAV, **FEW, frozen_until=0.5)
    with torch.no_grad():
        m.prototypes.weight.mul_(1 + 1e-6)
    before = m.prototypes.weight.clone()
    for progress, frozen in ((0.49, True), (0.5, False)):
        m([views(2)], LABELS_B, progress).loss.backward()
        m.before_update(progress)
        assert (m.prototypes.weight.grad is None) == frozen
        m.after_update(progress)
        assert torch.equal(m.prototypes.weight, before) == frozen


def test_prototypes_have_length_one_after_an_update(tiny_method, views):
    m = tiny_method(SwAV, **FEW)
    with torch.no_grad():
        m.prototypes.weight.mul_(3)
    m.after_update(0.0)
    torch.testing.assert_close(m.prototypes.weight.norm(dim=1), torch.ones(6))


def test_small_views_are_not_assigned_and_do_not_join_the_queue(tiny_method, views):
    m = tiny_method(SwAV, prototypes=6, queue=64)
    step = m([views(2), views(3, size=2)], LABELS_B)
    m.after_update(0.0)
    assert m.queue.pushed == 16
    torch.testing.assert_close(m.queue.rows_SD[:16], F.normalize(step.rows_ND[:16]).detach())


# ------------------------------------------------------------------ collapse


def test_equal_rows_have_the_loss_of_chance_and_no_information(tiny_method):
    m = tiny_method(SwAV, **FEW)
    step = m.compute_loss({"large_MD": torch.ones(16, 5)}, LABELS_B, 0.0)
    assert step.scalars["assignment_information"].item() == pytest.approx(0, abs=1e-5)
    assert m.chance_level(step).item() == pytest.approx(math.log(6))


def test_information_is_that_of_the_assignment():
    each = torch.eye(4)[torch.arange(4).repeat(3)]
    assert assignment_information(each).item() == pytest.approx(1)
    assert assignment_information(torch.full((12, 4), 0.25)).item() == pytest.approx(0, abs=1e-6)
    assert assignment_information(each[:1].repeat(12, 1)).item() == pytest.approx(0)
    two = torch.eye(4)[torch.arange(2).repeat(3)]
    assert assignment_information(two).item() == pytest.approx(0.5)
