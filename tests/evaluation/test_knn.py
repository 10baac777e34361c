from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from tcl_train.evaluation import knn
from tcl_train.evaluation.features import Features
from tcl_train.evaluation.knn import KNN, knn_scores, knn_scores_by_k, knn_top1


def test_agrees_with_scikit_learn(make_features) -> None:
    train, test = make_features(300, seed=1), make_features(80, seed=2)

    def weight(distance):
        return np.exp((1 - distance) / 0.07)  # cosine distance is 1 - s

    reference = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", algorithm="brute", weights=weight
    )
    reference.fit(train.x_ND.double().numpy(), train.y_N.numpy())
    expected_N = torch.from_numpy(reference.predict(test.x_ND.double().numpy()))
    scores = knn_scores(train, test.x_ND, num_classes=3)
    assert torch.equal(scores.argmax(1), expected_N)


def test_all_vote_where_there_are_fewer_than_k(make_features) -> None:
    train = make_features(7, seed=3)
    scores = knn_scores(train, train.x_ND, num_classes=3)
    assert (scores > 0).sum(1).eq(len(train.y_N.unique())).all()


def test_a_small_temperature_does_not_overflow(make_features) -> None:
    train = make_features(50)
    assert knn_scores(train, train.x_ND, num_classes=3, temperature=1e-4).isfinite().all()


def test_rows_are_compared_by_angle_not_by_length() -> None:
    train = Features(torch.tensor([[100.0, 0.0], [0.0, 0.01]]), torch.tensor([0, 1]))
    test = Features(torch.tensor([[0.1, 1.0]]), torch.tensor([1]))
    assert knn_top1(train, test, num_classes=2) == 100


def test_several_numbers_of_neighbours_are_each_what_it_is_alone(make_features) -> None:
    train, test = make_features(60, seed=1), make_features(30, seed=2)
    found = knn_scores_by_k(train, test.x_ND, num_classes=3, k=[7, 1, 400], temperature=0.2)
    assert list(found) == [7, 1, 400]
    for k, score_NK in found.items():
        alone_NK = knn_scores(train, test.x_ND, num_classes=3, neighbours=k, temperature=0.2)
        torch.testing.assert_close(score_NK, alone_NK)


def test_the_neighbours_are_those_of_brute_force(make_features, monkeypatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", 7)
    train, test = make_features(200, dim=16, seed=1), make_features(40, dim=16, seed=2)
    similarity_NM = torch.nn.functional.cosine_similarity(
        test.x_ND.double()[:, None], train.x_ND.double()[None], dim=2
    )
    votes_NK = torch.zeros(40, 3, dtype=torch.float64)
    for n in range(40):
        for m in sorted(range(200), key=lambda m: -similarity_NM[n, m].item())[:5]:
            votes_NK[n, train.y_N[m]] += math.exp(similarity_NM[n, m].item() / 0.07)
    scores = knn_scores(train, test.x_ND, num_classes=3, neighbours=5)
    assert torch.equal(scores.argmax(1), votes_NK.argmax(1))
    share = scores / scores.sum(1, keepdim=True)
    torch.testing.assert_close(
        share.double(), votes_NK / votes_NK.sum(1, keepdim=True), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("columns", "count"), [(1, 1), (20, 20), (700, 5), (5003, 20), (999, 1)])
def test_the_largest_are_those_of_topk(columns, count) -> None:
    """As many as there are, few of many, and columns that are left over when they are dealt out."""
    x_NM = torch.randn(30, columns, generator=torch.Generator().manual_seed(columns))
    x_NM[::2] = x_NM[::2].sort(1, descending=True).values  # all the largest side by side
    values_NJ, places_NJ = knn.largest(x_NM, count)
    expected = x_NM.topk(count, dim=1)
    assert torch.equal(values_NJ, expected.values)
    assert torch.equal(places_NJ, expected.indices)


def test_the_largest_of_equal_values_are_different_places() -> None:
    values_NJ, places_NJ = knn.largest(torch.ones(3, 4000), 10)
    assert (values_NJ == 1).all()
    assert all(len(set(row)) == 10 for row in places_NJ.tolist())


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"k": 0}, "knn.k"),
        ({"k": []}, "knn.k"),
        ({"k": [5, 2.5]}, "knn.k"),
        ({"k": True}, "knn.k"),
        ({"k": "5"}, "knn.k"),
        ({"temperature": 0}, "knn.temperature"),
    ],
)
def test_wrong_values_are_named(keys, named) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        KNN(**keys)
