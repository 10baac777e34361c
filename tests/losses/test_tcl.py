"""What is TCL's own: the paper's claims about its gradient, and what it reduces to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcl_train.losses import TCL, SupCon

few = settings(max_examples=40)
seeds = st.integers(0, 2**32 - 1)
# Rows fewer than dimensions, so that a gradient by each similarity can be read off.
labels_of_few = st.lists(st.integers(0, 2), min_size=3, max_size=8)


def rows(n, seed, dimensions=12):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=draw, dtype=torch.float64)


def parts(z_ND, y_N):
    """Similarities, and which pairs are positives and negatives."""
    unit_ND = z_ND / z_ND.norm(dim=1, keepdim=True)
    same_NM = y_N[:, None] == y_N
    return unit_ND @ unit_ND.T, same_NM & ~torch.eye(len(y_N), dtype=torch.bool), ~same_NM


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_k1_of_0_and_k2_of_1_is_supcon_out(tau, batches):
    for z_ND, y_N in batches:
        value = TCL(tau=tau, k1=0.0, k2=1.0)(z_ND, y_N)
        torch.testing.assert_close(value, SupCon(tau=tau)(z_ND, y_N), rtol=1e-12, atol=1e-12)


def test_without_negatives_k2_does_not_matter():
    z_ND, y_N = rows(5, 0), torch.zeros(5).long()
    assert torch.equal(TCL(k2=1.0)(z_ND, y_N), TCL(k2=7.0)(z_ND, y_N))


def test_the_k1_term_carries_no_temperature():
    """Two equal rows and nothing else: D = e^{1/tau} + k1 e^{-1}."""
    z_ND, y_N = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2).long()
    for tau in (0.1, 1.0):
        expected = math.log(1 + 5000 * math.exp(-1 - 1 / tau))
        assert TCL(tau=tau, k1=5000.0)(z_ND, y_N).item() == pytest.approx(expected, rel=1e-12)


def test_the_largest_terms_are_reached_without_overflow():
    """e^{1/0.01} is no float32; the loss of opposite positives is 2/tau above that of equal ones,
    up to what the k1 term adds."""
    z_ND, y_N = torch.tensor([[1.0, 0], [-1, 0], [1, 0]]), torch.tensor([0, 0, 1])
    # Anchor 0: its negative wins by e^200. Anchor 1: the k1 term wins, by log k1 + 1 + 100.
    expected = (200 + math.log(1e6) + 1 + 100) / 2
    assert TCL(tau=0.01, k1=1e6)(z_ND, y_N).item() == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------ gradients by similarity


@pytest.mark.parametrize("k1", [0.0, 1.0, 5e4])
@pytest.mark.parametrize("k2", [1.0, 3.0])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_the_gradient_is_the_closed_form(gradient_by_similarity, tau, k1, k2):
    """Positive: (1/tau)(P_ip - 1/|P|) - k1 e^{-s_ip}/D_i; negative: (k2/tau) e^{s_in/tau}/D_i."""
    z_ND, y_N = rows(8, 1), torch.tensor([0, 0, 1, 0, 1, 2, 0, 3])
    s_NM, positive_NM, negative_NM = parts(z_ND, y_N)
    e_NM = (s_NM / tau).exp()
    d_N1 = (positive_NM * (e_NM + k1 * (-s_NM).exp()) + k2 * negative_NM * e_NM).sum(1)[:, None]
    count_N1 = positive_NM.sum(1, keepdim=True).double()
    pull_NM = (e_NM / d_N1 - 1 / count_N1.clamp(min=1)) / tau - k1 * (-s_NM).exp() / d_N1
    push_NM = k2 / tau * e_NM / d_N1
    g_NM = torch.where(positive_NM, pull_NM, push_NM) * (count_N1 > 0) / (count_N1 > 0).sum()
    expected_NM = (g_NM + g_NM.T).fill_diagonal_(0)
    actual_NM = gradient_by_similarity(TCL(tau=tau, k1=k1, k2=k2), z_ND, y_N)
    torch.testing.assert_close(actual_NM, expected_NM, rtol=1e-9, atol=1e-12)


@few
@given(labels=labels_of_few, seed=seeds, tau=st.sampled_from([0.1, 0.3, 1.0]))
def test_a_hard_positive_is_pulled_harder_than_by_supcon(gradient_by_similarity, labels, seed, tau):
    """The paper's theorem. Hard: SupCon gives it less than its share 1/|P|, from both sides."""
    z_ND, y_N = rows(len(labels), seed), torch.tensor(labels)
    s_NM, positive_NM, negative_NM = parts(z_ND, y_N)
    e_NM = (s_NM / tau).exp() * (positive_NM | negative_NM)
    p_NM = e_NM / e_NM.sum(1, keepdim=True)
    below_NM = p_NM * positive_NM.sum(1, keepdim=True) < 1
    hard_NM = positive_NM & below_NM & below_NM.T
    supcon_NM = gradient_by_similarity(SupCon(tau=tau), z_ND, y_N)
    tcl_NM = gradient_by_similarity(TCL(tau=tau, k1=100.0), z_ND, y_N)
    assert (supcon_NM[hard_NM] < 0).all()
    assert (tcl_NM[hard_NM].abs() > supcon_NM[hard_NM].abs()).all()


@few
@given(labels=labels_of_few, seed=seeds, k1=st.sampled_from([0.0, 100.0, 5e4]))
def test_negatives_are_pushed_harder_as_k2_grows(gradient_by_similarity, labels, seed, k1):
    """Only pairs that the loss sees: at least one of the two is an anchor."""
    z_ND, y_N = rows(len(labels), seed), torch.tensor(labels)
    _, positive_NM, negative_NM = parts(z_ND, y_N)
    anchor_N = positive_NM.any(1)
    seen_NM = negative_NM & (anchor_N[:, None] | anchor_N)
    weak_NM, strong_NM = (
        gradient_by_similarity(TCL(tau=0.3, k1=k1, k2=k2), z_ND, y_N) for k2 in (1.0, 3.0)
    )
    assert (weak_NM[seen_NM] > 0).all()
    assert (strong_NM[seen_NM] > weak_NM[seen_NM]).all()


@few
@given(labels=labels_of_few, seed=seeds)
def test_negatives_are_pushed_less_as_k1_grows(gradient_by_similarity, labels, seed):
    """Why the paper has k2 at all."""
    z_ND, y_N = rows(len(labels), seed), torch.tensor(labels)
    _, positive_NM, negative_NM = parts(z_ND, y_N)
    anchor_N = positive_NM.any(1)
    seen_NM = negative_NM & (anchor_N[:, None] | anchor_N)
    plain_NM, tuned_NM = (
        gradient_by_similarity(TCL(tau=0.3, k1=k1), z_ND, y_N) for k1 in (1.0, 1000.0)
    )
    assert (tuned_NM[seen_NM] < plain_NM[seen_NM]).all()


@few
@given(labels=labels_of_few, seed=seeds, lower=st.floats(0, 1e6), raised=st.floats(1.5, 100))
def test_the_loss_grows_with_k1_and_with_k2(labels, seed, lower, raised):
    z_ND, y_N = rows(len(labels), seed), torch.tensor(labels)
    _, positive_NM, negative_NM = parts(z_ND, y_N)
    value = TCL(k1=lower)(z_ND, y_N)
    assert TCL(k1=lower * raised)(z_ND, y_N) >= value
    assert TCL(k1=lower, k2=raised)(z_ND, y_N) >= value
    if (positive_NM.any(1) & negative_NM.any(1)).any():
        assert TCL(tau=1.0, k1=1.0, k2=raised)(z_ND, y_N) > TCL(tau=1.0, k1=1.0)(z_ND, y_N)


# ------------------------------------------------------------------ hyper-parameters


def test_the_defaults_are_the_published_ones():
    loss = TCL()
    assert (loss.tau, loss.k1, loss.k2) == (0.1, 5000.0, 1.0)


def test_whole_numbers_are_taken_for_weights():
    assert TCL(tau=1, k1=50000, k2=1).k1 == 50000.0
