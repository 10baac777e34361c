"""Nearest rows and near-duplicates against all cosines at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcl_train.evaluation import similarity
from tcl_train.evaluation.similarity import TooManyPairs, near_duplicates, nearest


def rows(count: int, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def cosines(x_ND: np.ndarray) -> torch.Tensor:
    z_ND = F.normalize(torch.from_numpy(x_ND).double())
    return z_ND @ z_ND.T


@pytest.fixture(params=[4096, 7])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("top", [1, 4, 100])
def test_the_nearest_are_those_of_the_whole_matrix(top: int) -> None:
    x_ND = rows(30)
    found = nearest(x_ND, torch.from_numpy(3 * x_ND[:6]), top=top)
    wanted = cosines(x_ND)[:6].topk(min(top, 30), dim=1)
    assert torch.equal(found.index_QT, wanted.indices)
    torch.testing.assert_close(found.similarity_QT.double(), wanted.values, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("threshold", [0.3, 0.9, 1.0])
def test_near_duplicates_are_those_of_the_whole_matrix(threshold: float) -> None:
    x_ND = np.concatenate([rows(30), 2 * rows(3)])  # the first three again
    found = near_duplicates(x_ND, threshold=threshold, most=1000)
    wanted = {(i, j) for i, j in (cosines(x_ND) >= threshold - 1e-6).triu(1).nonzero().tolist()}
    pairs = list(zip(found.first_P.tolist(), found.second_P.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == wanted
    assert {(0, 30), (1, 31), (2, 32)} <= wanted
    assert found.similarity_P.tolist() == sorted(found.similarity_P.tolist(), reverse=True)
    assert found.similarity_P.max() <= 1


def test_too_many_pairs_are_an_error_and_not_a_full_memory() -> None:
    with pytest.raises(TooManyPairs, match="more than 10 pairs"):
        near_duplicates(np.ones((30, 2), np.float32), threshold=0.9, most=10)


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_have_no_pairs(count: int) -> None:
    assert len(near_duplicates(rows(count), threshold=0.1, most=9).first_P) == 0
    found = nearest(rows(count), torch.ones(1, 5), top=3)
    assert found.index_QT.shape == (1, count)
