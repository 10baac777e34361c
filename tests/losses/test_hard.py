"""What is the hard contrastive loss's own: which negatives it keeps."""

from __future__ import annotations

import math

import pytest
import torch

from tcl_train.losses import HardContrastive, NTXent, SimpleContrastive
from tcl_train.losses.pair_loss import dense_pairs, normalize_rows


def rows(n, dimensions, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=draw, dtype=torch.float64)


def test_keeping_all_negatives_is_ntxent():
    z_ND, y_N = rows(12, 5), torch.arange(6).repeat(2)
    value = HardContrastive(tau=0.2, alpha=0.99)(z_ND, y_N)  # of 10 negatives
    torch.testing.assert_close(value, NTXent(tau=0.2)(z_ND, y_N), rtol=1e-12, atol=1e-12)


def test_at_least_one_negative_is_kept(gradient_by_similarity):
    """The hardest of each anchor, and no other has a gradient."""
    z_ND, y_N = rows(8, 12), torch.arange(4).repeat(2)
    sim_NM, _, negative_NM = dense_pairs(normalize_rows(z_ND), y_N)
    hardest_N = sim_NM.masked_fill(~negative_NM, -2).argmax(1)
    expected_NM = torch.zeros(8, 8, dtype=torch.bool)
    expected_NM[torch.arange(8), hardest_N] = True
    gradient_NM = gradient_by_similarity(HardContrastive(alpha=0.01), z_ND, y_N)
    pushed_NM = negative_NM & (gradient_NM.abs() > 1e-9)
    assert torch.equal(pushed_NM, expected_NM | expected_NM.T)
    assert (gradient_NM[pushed_NM] > 0).all()


@pytest.mark.parametrize(
    ("alpha", "negatives", "kept"),
    [(0.5, 10, 5), (0.25, 10, 3), (0.3, 50, 15), (0.3, 100, 30), (0.6, 25, 15), (0.1, 70, 7)],
)
def test_the_share_that_is_kept_is_exact(alpha, negatives, kept):
    """0.3 of 50 negatives are 15, although 0.3 as a float32 is a little more than 0.3."""
    angle_M = torch.linspace(0.5, 3, negatives, dtype=torch.float64)
    others_MD = torch.stack([angle_M.cos(), angle_M.sin()], 1)
    z_ND = torch.cat([torch.tensor([[1.0, 0], [1, 0]], dtype=torch.float64), others_MD])
    y_N = torch.cat([torch.zeros(2), 1 + torch.arange(negatives)]).long()
    # Both anchors see the positive at s = 1 and the negatives at s = cos(angle), in order.
    e_M = [math.exp(math.cos(a) / 0.5) for a in angle_M.tolist()]
    expected = math.log1p(sum(e_M[:kept]) / math.exp(1 / 0.5))
    value = HardContrastive(tau=0.5, alpha=alpha)(z_ND, y_N)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "dtype"), [(257, torch.float32), (1300, torch.float64)], ids=["float32", "float64"]
)
def test_the_hardest_negative_is_kept_in_a_batch_of_many_blocks(n, dtype):
    """A product of other blocks is rounded otherwise, and the cut is at the hardest itself."""
    z_ND, y_N = rows(n, 128).to(dtype), torch.arange(n) // 2
    loss = HardContrastive(tau=0.1, alpha=1e-4)
    sim_NM, positive_NM, negative_NM = dense_pairs(normalize_rows(z_ND), y_N)
    loss_N = loss.anchor_losses(sim_NM, positive_NM, negative_NM)
    expected = loss_N[positive_NM.any(1)].mean()
    torch.testing.assert_close(loss(z_ND, y_N), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [40, 300])
def test_the_share_holds_where_similarities_tie(alpha, n):
    """All rows equal: a share of the negatives counts, as it would if they differed a little."""
    z_ND, y_N = torch.ones(n, 4), torch.arange(n) // 2
    kept = math.ceil(round(alpha * (n - 2), 9))
    expected = math.log1p(kept)  # all terms are e^{1/tau}
    assert HardContrastive(tau=0.5, alpha=alpha)(z_ND, y_N).item() == pytest.approx(expected)


def test_ties_at_the_floor_share_what_is_left():
    """Of the negatives one is nearer, three tie, and two of the four are kept: the three count for
    one together."""
    z_ND = torch.tensor([[1.0, 0, 0]] * 2 + [[0.8, 0.6, 0]] + [[0.6, 0.8, 0]] * 3)
    y_N = torch.tensor([0, 0, 1, 2, 3, 4])
    e = [math.exp(s / 0.5) for s in (1.0, 0.8, 0.6)]
    expected = math.log((e[0] + e[1] + e[2]) / e[0])
    value = HardContrastive(tau=0.5, alpha=0.5)(z_ND.double(), y_N)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_hard_simple_loss_keeps_its_share_of_ties_too():
    z_ND, y_N = torch.ones(40, 4), torch.arange(40) // 2
    value = SimpleContrastive(lam=0.1, alpha=0.25)(z_ND, y_N)
    assert value.item() == pytest.approx(-1 + 0.1 * math.ceil(0.25 * 38), abs=1e-6)
