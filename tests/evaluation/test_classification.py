"""Calibration error and accuracy by class against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from tcl_train.evaluation.classification import calibration_error, per_class_top1


def test_calibration_error_is_its_definition() -> None:
    g = torch.Generator().manual_seed(3)
    score_NK = 2 * torch.randn(500, 4, generator=g)
    y_N = torch.randint(4, (500,), generator=g)
    bins: list[list[tuple[float, float]]] = [[] for _ in range(15)]
    for score_K, y in zip(score_NK.double().tolist(), y_N.tolist(), strict=True):
        shares = [math.exp(s) for s in score_K]
        confidence = max(shares) / sum(shares)
        b = math.ceil(confidence * 15) - 1
        bins[b].append((confidence, float(score_K.index(max(score_K)) == y)))
    expected = sum(
        abs(sum(c for c, _ in members) - sum(right for _, right in members)) for members in bins
    )
    assert calibration_error(score_NK, y_N) == pytest.approx(100 * expected / 500, rel=1e-4)


def test_a_classifier_that_is_sure_and_right_has_no_error_and_one_that_is_wrong_all() -> None:
    y_N = torch.tensor([0, 1, 2, 1])
    sure_NK = 100 * torch.eye(3)[y_N]
    assert calibration_error(sure_NK, y_N) == pytest.approx(0, abs=1e-4)
    assert calibration_error(sure_NK, (y_N + 1) % 3) == pytest.approx(100, abs=1e-4)


def test_one_that_cannot_tell_and_says_so_has_no_error() -> None:
    y_N = torch.arange(4)
    assert calibration_error(torch.zeros(4, 4), y_N) == pytest.approx(0, abs=1e-4)


def test_accuracy_by_class_averages_to_the_whole() -> None:
    g = torch.Generator().manual_seed(4)
    score_NK = torch.randn(90, 3, generator=g)
    y_N = torch.arange(90) % 3
    by_class = per_class_top1(score_NK, y_N, ("a", "b", "c"))
    assert list(by_class) == ["a", "b", "c"]
    right_N = (score_NK.argmax(1) == y_N).float()
    assert sum(by_class.values()) / 3 == pytest.approx(100 * right_N.mean().item())
    assert by_class["b"] == pytest.approx(100 * right_N[y_N == 1].mean().item())


def test_a_class_without_test_images_has_no_accuracy() -> None:
    found = per_class_top1(torch.eye(3), torch.tensor([0, 1, 1]), ("a", "b", "c"))
    assert found == {"a": 100.0, "b": 50.0, "c": None}
