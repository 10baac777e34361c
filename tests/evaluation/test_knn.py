from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from tcl_train.evaluation.features import Features
from tcl_train.evaluation.knn import knn_scores, knn_top1


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
