"""The engine against the plain sums: N anchors, M candidates, D dimensions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tcl_train.losses.blockwise import (
    Hardest,
    PairWeights,
    Tile,
    rectangular_log_denominator,
    symmetric,
    symmetric_log_denominator,
)

TILES = [Tile(1, 1, 1), Tile(7, 3, 2), Tile(3, 7, 3), Tile(16, 16, 4), Tile(500, 500, 500)]
WEIGHTS = [
    PairWeights(0.1),
    PairWeights(0.5, k1=1e4),
    PairWeights(0.07, k1=3.0, negative=0.5),
    PairWeights(0.2, negative=0.0),
    PairWeights(1.0, negative=4.0),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def plain(a_ND, b_MD, label_N, label_M, weights, own_N, floor_N=None):
    """D as it is written, with log at the end."""
    sim_NM = a_ND @ b_MD.T
    own_NM = own_N[:, None] == torch.arange(len(b_MD))
    positive_NM = (label_N[:, None] == label_M) & ~own_NM
    negative_NM = (label_N[:, None] != label_M) & ~own_NM
    if floor_N is not None:
        negative_NM &= sim_NM.detach() >= floor_N[:, None]
    e_NM = (sim_NM / weights.tau).exp()
    terms_NM = (e_NM + weights.k1 * (-sim_NM).exp()) * positive_NM
    d_N = (terms_NM + weights.negative * e_NM * negative_NM).sum(1)
    empty_N = d_N == 0
    return torch.where(empty_N, -math.inf, d_N.masked_fill(empty_N, 1).log())


def with_gradient(value_N, *inputs):
    """The value, and the gradient of a sum with unequal weights; empty sums are left out."""
    g_N = draw(len(value_N), seed=9)
    kept_N = torch.where(value_N > -math.inf, value_N, 0)
    return value_N.detach(), torch.autograd.grad((g_N * kept_N).sum(), inputs)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("labels", [1, 3, 12, 1000])
def test_symmetric_form_is_the_plain_sum_for_any_block_size(weights, tile, labels) -> None:
    z_ND = F.normalize(draw(37, 5)).requires_grad_()
    group_N = torch.randint(labels, (37,), generator=torch.Generator().manual_seed(1)).sort()[0]
    expected, (d_z,) = with_gradient(
        plain(z_ND, z_ND, group_N, group_N, weights, torch.arange(37)), z_ND
    )
    got, (d_got,) = with_gradient(symmetric_log_denominator(z_ND, group_N, weights, tile), z_ND)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_got, d_z, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_blocks_cover_each_pair_once_and_masks_cover_the_positives(tile) -> None:
    """Whether labels are read (CPU) or every block is masked (elsewhere)."""
    group_N = torch.tensor([0] * 2 + [1] * 9 + [2] + [3] * 4 + list(range(4, 15)))
    n = len(group_N)
    seen_NN = torch.zeros(n, n, dtype=torch.long)
    for i, i_end, j, j_end, mixed in symmetric._blocks(group_N, tile):
        assert 0 < i_end - i <= tile.rows
        assert 0 < j_end - j <= max(tile.columns, tile.rows)
        seen_NN[i:i_end, j:j_end] += 1
        if i != j:
            seen_NN[j:j_end, i:i_end] += 1
        if not mixed:
            assert (group_N[i:i_end, None] != group_N[j:j_end]).all()
    assert (seen_NN == 1).all()


def test_large_groups_leave_most_blocks_without_a_mask() -> None:
    group_N = torch.arange(1000) // 100
    mixed = [block.mixed for block in symmetric._blocks(group_N, Tile(64, 64, 16))]
    assert sum(mixed) < len(mixed) / 2


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_rectangular_form_is_the_plain_sum(weights, tile) -> None:
    """Anchors some of which are among the candidates, as when rows are gathered."""
    a_ND, b_MD = draw(13, 4).requires_grad_(), draw(29, 4, seed=1).requires_grad_()
    g = torch.Generator().manual_seed(2)
    label_N, label_M = torch.randint(4, (13,), generator=g), torch.randint(4, (29,), generator=g)
    own_N = torch.tensor([5, -1, 0, 28, -1, 7, 8, 9, 10, 11, -1, 3, 4])
    expected, d_expected = with_gradient(
        plain(a_ND, b_MD, label_N, label_M, weights, own_N), a_ND, b_MD
    )
    got, d_got = with_gradient(
        rectangular_log_denominator(a_ND, b_MD, label_N, label_M, weights, own_N=own_N, tile=tile),
        a_ND,
        b_MD,
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for d, d_plain in zip(d_got, d_expected, strict=True):
        torch.testing.assert_close(d, d_plain, rtol=1e-8, atol=1e-10)


def test_negatives_below_the_floor_are_left_out_and_positives_stay() -> None:
    z_ND = F.normalize(draw(20, 3)).requires_grad_()
    label_N = torch.arange(20) % 3
    floor_N = torch.full((20,), 0.2, dtype=torch.float64)
    hardest = Hardest(floor_N, torch.ones_like(floor_N))
    own_N = torch.arange(20)
    arguments = (z_ND, z_ND, label_N, label_N, PairWeights(0.3))
    expected, (d_expected,) = with_gradient(plain(*arguments, own_N, floor_N), z_ND)
    got, (d_got,) = with_gradient(
        rectangular_log_denominator(*arguments, own_N=own_N, hardest=hardest, tile=Tile(6, 7, 6)),
        z_ND,
    )
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(d_got, d_expected)


def test_both_forms_agree_at_the_edge_of_the_symmetric_range() -> None:
    z_ND = F.normalize(draw(40, 3).float())
    z_ND[1] = z_ND[0]  # s = 1
    z_ND[3] = -z_ND[2]  # s = -1
    group_N = torch.arange(40) // 4
    tau = 1 / symmetric.LARGEST_LOG_TERM[torch.float32]
    assert symmetric.unit_rows_fit(torch.float32, PairWeights(tau))
    assert not symmetric.unit_rows_fit(torch.float32, PairWeights(tau * 0.99))
    results = []
    for form in ("symmetric", "rectangular"):
        rows_ND = z_ND.clone().requires_grad_()
        if form == "symmetric":
            value_N = symmetric_log_denominator(rows_ND, group_N, PairWeights(tau, k1=1e6))
        else:
            value_N = rectangular_log_denominator(
                rows_ND,
                rows_ND,
                group_N,
                group_N,
                PairWeights(tau, k1=1e6),
                own_N=torch.arange(40),
            )
        results.append((value_N.detach(), torch.autograd.grad(value_N.sum(), rows_ND)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("form", ["symmetric", "rectangular"])
def test_an_empty_sum_is_minus_infinity_and_has_no_gradient(form) -> None:
    z_ND = F.normalize(draw(3, 2)).requires_grad_()
    group_N = torch.tensor([0, 1, 2])
    only_positives = PairWeights(0.1, negative=0.0)
    if form == "symmetric":
        value_N = symmetric_log_denominator(z_ND, group_N, only_positives)
    else:
        own_N = torch.arange(3)
        value_N = rectangular_log_denominator(
            z_ND, z_ND, group_N, group_N, only_positives, own_N=own_N
        )
    assert (value_N == -math.inf).all()
    (gradient_ND,) = torch.autograd.grad(value_N, z_ND, torch.ones(3, dtype=torch.float64))
    assert (gradient_ND == 0).all()


@pytest.mark.parametrize("form", ["symmetric", "rectangular"])
def test_a_nan_row_is_not_hidden(form) -> None:
    z_ND = F.normalize(draw(6, 2))
    z_ND[2] = math.nan
    z_ND.requires_grad_()
    group_N = torch.arange(6) // 2
    if form == "symmetric":
        value_N = symmetric_log_denominator(z_ND, group_N, PairWeights(0.1))
    else:
        value_N = rectangular_log_denominator(z_ND, z_ND, group_N, group_N, PairWeights(0.1))
    assert value_N.isnan().all()  # every anchor sees the row
    (gradient_ND,) = torch.autograd.grad(value_N.sum(), z_ND)
    assert gradient_ND.isnan().any()


def test_autocast_changes_nothing() -> None:
    z_ND = F.normalize(draw(30, 8).float()).requires_grad_()
    group_N = torch.arange(30) // 3
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value_N = symmetric_log_denominator(z_ND, group_N, PairWeights(0.1, k1=10.0))
            other_N = rectangular_log_denominator(z_ND, z_ND, group_N, group_N, PairWeights(0.1))
            total = value_N.sum() + other_N.sum()
            results.append((value_N, other_N, *torch.autograd.grad(total, z_ND)))
    for plain_result, autocast_result in zip(*results, strict=True):
        assert torch.equal(plain_result, autocast_result)
