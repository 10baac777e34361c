"""RankMe and uniformity against their equations written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tcl_train.evaluation import geometry
from tcl_train.evaluation.geometry import rankme, uniformity


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
