"""Gradient response against the lemmas, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tcl_train.losses import TCL, NPairs, SupCon, gradient_response, response

TAU, K1, K2 = 0.2, 40.0, 3.0


def by_the_lemmas(z_ND, y_N, k1, k2):
    """Means over pairs of |(P_ip - 1/|P|)/tau - k1 e^{-s}/D| and of |k2 P_in / tau|."""
    unit_ND = F.normalize(z_ND)
    n = len(y_N)
    positives, negatives = [], []
    for i in range(n):
        s = {j: float(unit_ND[i] @ unit_ND[j]) for j in range(n) if j != i}
        mine = [j for j in s if y_N[j] == y_N[i]]
        if not mine:
            continue
        e = {j: math.exp(s[j] / TAU) for j in s}
        d = sum(e[j] * (1 if j in mine else k2) for j in s)
        d += k1 * sum(math.exp(-s[j]) for j in mine)
        for j in s:
            if j in mine:
                slope = (e[j] / d - 1 / len(mine)) / TAU - k1 * math.exp(-s[j]) / d
                positives.append(abs(slope))
            else:
                negatives.append(k2 * e[j] / d / TAU)
    return sum(positives) / len(positives), sum(negatives) / len(negatives)


@pytest.mark.parametrize("block", [1, 100, 2**20])
@pytest.mark.parametrize(("k1", "k2"), [(0.0, 1.0), (K1, K2)])
def test_it_is_what_the_lemmas_say(k1, k2, block, monkeypatch) -> None:
    monkeypatch.setattr(response, "MOST_PAIRS", block)
    g = torch.Generator().manual_seed(0)
    z_ND = torch.randn(23, 4, generator=g, dtype=torch.float64)
    y_N = torch.randint(6, (23,), generator=g)
    y_N[5] = 77  # an anchor without positives is left out
    got = gradient_response(TCL(TAU, k1, k2), z_ND, y_N)
    expected = by_the_lemmas(z_ND, y_N, k1, k2)
    assert got.positive.item() == pytest.approx(expected[0], rel=1e-10)
    assert got.negative.item() == pytest.approx(expected[1], rel=1e-10)
    if k1 == 0:
        torch.testing.assert_close(gradient_response(SupCon(TAU), z_ND, y_N), got)


def test_k1_strengthens_positives_and_k2_negatives() -> None:
    z_ND = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    y_N = torch.arange(60) % 5
    plain = gradient_response(TCL(0.1, 0.0, 1.0), z_ND, y_N)
    assert gradient_response(TCL(0.1, 5e4, 1.0), z_ND, y_N).positive > plain.positive
    k2_1 = gradient_response(TCL(0.1, 5e4, 1.0), z_ND, y_N)
    assert gradient_response(TCL(0.1, 5e4, 3.0), z_ND, y_N).negative > k2_1.negative


def test_without_pairs_of_a_kind_it_is_nan() -> None:
    z_ND = torch.randn(4, 3)
    alone = gradient_response(SupCon(), z_ND, torch.arange(4))
    assert alone.positive.isnan()
    together = gradient_response(SupCon(), z_ND, torch.zeros(4, dtype=torch.long))
    assert together.negative.isnan()
    assert together.positive.isfinite()


def test_rows_that_a_loss_does_not_normalise_stay_as_they_are() -> None:
    z_ND = torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    y_N = torch.arange(10) // 2
    once, twice = (gradient_response(NPairs(), scale * z_ND, y_N) for scale in (1, 2))
    assert once != twice


def test_it_leaves_no_graph_behind() -> None:
    z_ND = torch.randn(6, 3, requires_grad=True)
    got = gradient_response(TCL(), z_ND, torch.arange(6) // 2)
    assert not got.positive.requires_grad
    assert z_ND.grad is None
