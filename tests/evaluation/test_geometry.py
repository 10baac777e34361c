"""RankMe and uniformity against their equations written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tcl_train.evaluation import geometry
from tcl_train.evaluation.geometry import alignment, rankme, tolerance, uniformity


def rows(n: int, d: int, rank: int | None = None) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x_ND = torch.randn(n, d, generator=g)
    return x_ND if rank is None else x_ND[:, :rank] @ torch.randn(rank, d, generator=g)


def test_rankme_is_its_equation() -> None:
    x_ND = rows(40, 7)
    singular = np.linalg.svd(x_ND.double().numpy(), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert rankme(x_ND) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_rankme_is_at_most_the_rank(rank: int) -> None:
    assert 1 - 1e-3 <= rankme(rows(50, 8, rank)) <= rank + 1e-3


def test_rankme_of_orthogonal_rows_of_one_length_is_their_number() -> None:
    assert rankme(torch.eye(6)) == pytest.approx(6, rel=1e-4)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_uniformity_is_its_equation(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "CHUNK", chunk)
    x_ND = rows(20, 5)
    u_ND = (x_ND / x_ND.norm(dim=1, keepdim=True)).double()
    pairs = [(u_ND[i] - u_ND[j]).square().sum() for i in range(20) for j in range(20) if i != j]
    expected = torch.stack(pairs).mul(-2).exp().mean().log().item()
    assert uniformity(x_ND) == pytest.approx(expected, rel=1e-4)


def test_uniformity_of_equal_rows_is_zero() -> None:
    assert uniformity(torch.ones(9, 4)) == pytest.approx(0, abs=1e-5)


def test_uniformity_of_one_row_is_zero() -> None:
    assert uniformity(torch.ones(1, 4)) == 0


def test_alignment_is_its_equation() -> None:
    x_ND, y_ND = rows(20, 5), rows(40, 5)[20:]
    u_ND, v_ND = (a / a.norm(dim=1, keepdim=True) for a in (x_ND.double(), y_ND.double()))
    expected = sum(((u - v) ** 2).sum() for u, v in zip(u_ND, v_ND, strict=True)) / 20
    assert alignment(x_ND, y_ND) == pytest.approx(expected.item(), rel=1e-5)
    assert alignment(x_ND, 3 * x_ND) == pytest.approx(0, abs=1e-6)
    assert alignment(x_ND, -x_ND) == pytest.approx(4, rel=1e-5)


def test_tolerance_is_its_equation() -> None:
    x_ND, y_N = rows(20, 5), torch.arange(20) % 3
    u_ND = (x_ND / x_ND.norm(dim=1, keepdim=True)).double()
    pairs = [
        (u_ND[i] @ u_ND[j]).item()
        for i in range(20)
        for j in range(20)
        if i != j and y_N[i] == y_N[j]
    ]
    assert tolerance(x_ND, y_N) == pytest.approx(sum(pairs) / len(pairs), rel=1e-4)


def test_tolerance_of_equal_rows_is_one_and_without_pairs_there_is_none() -> None:
    assert tolerance(torch.ones(6, 3), torch.tensor([0, 0, 4, 4, 4, 2])) == pytest.approx(1)
    assert tolerance(rows(3, 4), torch.arange(3)) is None
