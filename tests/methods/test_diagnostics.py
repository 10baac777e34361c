"""The statistics of a batch's embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcl_train.methods import diagnostics
from tcl_train.methods.diagnostics import (
    effective_dimensions,
    embedding_statistics,
    find_collapse,
    similarity_histograms,
)

few = settings(max_examples=60)


def rows(n, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=draw)


def mean(values):
    return sum(values) / len(values) if values else math.nan


def double_loop(rows_ND, labels_N):
    """Over all pairs of rows, in float64."""
    unit = [[x / math.hypot(*row) for x in row] for row in rows_ND.double().tolist()]
    positives, negatives = [], []
    for i, a in enumerate(unit):
        for j, b in enumerate(unit):
            if i != j:
                cosine = sum(x * y for x, y in zip(a, b, strict=True))
                (positives if labels_N[i] == labels_N[j] else negatives).append(cosine)
    distances = [
        math.dist(a, b) ** 2
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j and labels_N[i] == labels_N[j]
    ]
    centre = [mean(column) for column in zip(*unit, strict=True)]
    return {
        "positive_similarity": mean(positives),
        "negative_similarity": mean(negatives),
        "alignment": mean(distances),
        "anchors_without_positives": sum((labels_N == y).sum().item() == 1 for y in labels_N),
        "embedding_spread": math.sqrt(mean([math.dist(row, centre) ** 2 for row in unit])),
    }


def assert_agrees(rows_ND, labels_N):
    actual = embedding_statistics(rows_ND, labels_N)
    expected_statistics = double_loop(rows_ND, labels_N)
    assert set(actual) == set(expected_statistics)
    for name, expected in expected_statistics.items():
        assert actual[name].item() == pytest.approx(expected, abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 0, 2, 1, 0, 7, -3], [4] * 6, [0, 1, 2, 3] * 3, list(range(40)) * 2],
    ids=["mixed", "one class", "three views", "eighty rows"],
)
def test_it_agrees_with_a_double_loop(labels):
    assert_agrees(3 * rows(len(labels), 8, 0), torch.tensor(labels))


@few
@given(
    labels=st.lists(st.integers(-2, 4), min_size=2, max_size=20),
    dimensions=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_batch_agrees_with_a_double_loop(labels, dimensions, seed):
    assert_agrees(rows(len(labels), dimensions, seed), torch.tensor(labels))


@pytest.mark.parametrize("seed", range(5))
def test_without_positives_their_similarity_is_nan(seed):
    """Not a rounding error divided by zero."""
    order_N = torch.randperm(37, generator=torch.Generator().manual_seed(seed))
    statistics = embedding_statistics(rows(37, 16, seed), order_N)
    assert statistics["positive_similarity"].isnan()
    assert statistics["negative_similarity"].isfinite()


@pytest.mark.parametrize("seed", range(5))
def test_without_negatives_their_similarity_is_nan(seed):
    statistics = embedding_statistics(rows(37, 16, seed), torch.full((37,), 3))
    assert statistics["negative_similarity"].isnan()
    assert statistics["positive_similarity"].isfinite()


def test_equal_rows_have_no_spread():
    statistics = embedding_statistics(rows(1, 8, 0).repeat(50, 1), torch.arange(25).repeat(2))
    assert statistics["embedding_spread"].item() == pytest.approx(0, abs=1e-3)
    assert statistics["positive_similarity"].item() == pytest.approx(1, abs=1e-5)
    assert statistics["negative_similarity"].item() == pytest.approx(1, abs=1e-5)


def test_rows_that_cancel_have_a_spread_of_one():
    rows_ND = torch.cat([torch.eye(4), -torch.eye(4)])
    statistics = embedding_statistics(5 * rows_ND, torch.arange(4).repeat(2))
    assert statistics["embedding_spread"].item() == pytest.approx(1)
    assert statistics["positive_similarity"].item() == pytest.approx(-1)
    assert statistics["negative_similarity"].item() == pytest.approx(0, abs=1e-6)


def test_a_row_of_zeros_counts_as_similar_to_nothing():
    rows_ND = torch.tensor([[1.0, 0], [0, 0], [1, 0]])
    statistics = embedding_statistics(rows_ND, torch.tensor([0, 0, 1]))
    assert statistics["positive_similarity"].item() == pytest.approx(0, abs=1e-6)
    assert statistics["negative_similarity"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rows_are_summed_in_float32(dtype):
    rows_ND = rows(64, 8, 0).to(dtype)
    assert_agrees(rows_ND, torch.arange(32).repeat(2))


def test_no_gradient_flows():
    rows_ND = rows(4, 3, 0).requires_grad_()
    statistics = embedding_statistics(rows_ND, torch.tensor([0, 0, 1, 1]))
    assert not any(value.requires_grad for value in statistics.values())
    assert all(value.ndim == 0 for value in statistics.values())


# ------------------------------------------------------------------ effective dimensions


@pytest.mark.parametrize("shape", [(50, 6), (6, 50)], ids=str)
def test_effective_dimensions_are_those_of_the_covariance(shape):
    unit_ND = torch.nn.functional.normalize(rows(*shape, 0).double())
    eigenvalues = torch.linalg.eigvalsh(torch.cov(unit_ND.T))
    expected = eigenvalues.sum().square() / eigenvalues.square().sum()
    torch.testing.assert_close(
        effective_dimensions(rows(*shape, 0)).double(), expected, rtol=1e-4, atol=0
    )


def test_rows_on_a_line_have_one_dimension_and_equal_rows_none():
    one_ND = rows(20, 1, 0) * rows(1, 8, 1)
    assert effective_dimensions(one_ND).item() == pytest.approx(1, rel=1e-4)
    assert effective_dimensions(torch.eye(8)).item() == pytest.approx(7, rel=1e-4)
    assert effective_dimensions(torch.ones(20, 8)).isfinite()


# ------------------------------------------------------------------ collapse

HEALTHY = {
    "loss": 3.0,
    "embedding_spread": 0.8,
    "assignment_information": 0.003,
    "effective_dimensions": 1.49,
    "anchors_without_positives": 0.0,
}


def test_what_a_run_has_recovered_from_is_no_collapse():
    assert find_collapse(HEALTHY, "") is None


@pytest.mark.parametrize(
    ("scalars", "words", "is_certain"),
    [
        ({"embedding_spread": 0.02}, "collapsed", True),
        ({"assignment_information": 0.0005}, "assigned to the prototypes alike", False),
        ({"effective_dimensions": 1.1}, "along one direction", False),
    ],
    ids=["spread", "information", "dimensions"],
)
def test_each_kind_of_collapse_is_found_with_advice(scalars, words, is_certain):
    found = find_collapse({**HEALTHY, **scalars}, "do this")
    assert found.is_certain == is_certain
    assert words in found.words
    assert found.words.endswith("do this")


# ------------------------------------------------------------------ histograms of similarities


def test_similarities_of_pairs_are_counted() -> None:
    rows_ND = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    found = similarity_histograms(rows_ND, torch.tensor([0, 0, 1, 1]))
    # Each pair twice: cosine 1 and 0 of positives, 0 and -1, twice each, of negatives.
    assert [sum(counts) for counts in found.values()] == [4, 8]
    assert (found["positive_pairs"][-1], found["positive_pairs"][25]) == (2, 2)
    assert (found["negative_pairs"][0], found["negative_pairs"][25]) == (4, 4)


def test_of_a_large_batch_some_rows_are_paired_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "MOST_PAIRS", 100)
    found = similarity_histograms(rows(40, 5, 0), torch.arange(20).repeat(2))
    assert sum(found["positive_pairs"]) == 3  # of 40 rows every sixteenth
    assert sum(found["negative_pairs"]) == 3 * 38


def test_half_precision_and_equal_rows_are_counted() -> None:
    found = similarity_histograms(torch.ones(6, 3, dtype=torch.float16), torch.arange(6) // 2)
    assert (found["positive_pairs"][-1], found["negative_pairs"][-1]) == (6, 24)
