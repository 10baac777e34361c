"""The order of an epoch by class.

The plain order is in test_loader.py.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcl_train.data.order import Balanced, ByClass, Shuffled, build_order, check_sampler

counts = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def labels(counts: list[int]) -> torch.Tensor:
    """So many images of each class, mixed; the labels are not 0, 1, ..."""
    labels_N = 3 * torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)) + 5
    return labels_N[torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))]


@given(counts, st.integers(2, 5))
def test_by_class_has_groups_of_one_class_and_no_image_twice(counts: list[int], k: int) -> None:
    labels_N = labels(counts)
    order = ByClass(labels_N, k)
    index = order(1, 0)
    assert len(index) == order.length == k * sum(n // k for n in counts)
    assert len(index.unique()) == len(index)
    groups_GK = labels_N[index].view(-1, k)
    assert (groups_GK == groups_GK[:, :1]).all()


def test_by_class_spreads_the_classes_over_the_epoch() -> None:
    """With as many images of each class, every class is once in each round of groups."""
    labels_N = labels([20] * 5)
    groups_G = labels_N[ByClass(labels_N, 4)(1, 0)].view(-1, 4)[:, 0]
    for round_C in groups_G.view(5, 5):
        assert len(round_C.unique()) == 5


@given(counts)
def test_balanced_has_each_class_alike_often(counts: list[int]) -> None:
    labels_N = labels(counts)
    order = Balanced(labels_N)
    index = order(1, 0)
    assert len(index) == order.length
    _, seen_C = labels_N[index].unique(return_counts=True)
    assert seen_C.tolist() == [max(1, len(labels_N) // len(counts))] * len(counts)
    of_image = torch.bincount(index, minlength=len(labels_N))
    for value in labels_N.unique():
        times = of_image[labels_N == value]
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize("kind", [lambda y: ByClass(y, 3), Balanced, lambda y: Shuffled(len(y))])
def test_an_order_follows_from_seed_and_epoch(kind: type) -> None:
    order = kind(labels([9, 30, 4]))
    first = order(1, 0)
    assert torch.equal(order(1, 0), first)
    assert not torch.equal(order(1, 1), first)
    assert not torch.equal(order(2, 0), first)
    assert len(order(1, 1)) == order.length


@pytest.mark.parametrize("sampler", ["classes", "balanced"])
def test_without_labels_there_is_no_order_by_class(sampler: str) -> None:
    message = f"data.sampler={sampler} chooses images by their labels"
    with pytest.raises(ValueError, match=message):
        build_order(sampler, images_per_class=4, count=10, labels_N=None)
    with pytest.raises(ValueError, match=message):
        check_sampler(sampler, 4, supervised=False, batch_size=8)


@pytest.mark.parametrize("k", [1, 0, 2.5, None])
def test_groups_of_fewer_than_two_are_refused(k: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"data\.images_per_class"):
        check_sampler("classes", k, supervised=True, batch_size=8)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match=r"data\.images_per_class"):
        build_order("classes", images_per_class=k, count=4, labels_N=labels([4]))  # type: ignore[arg-type]


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="shuffle, classes, balanced"):
        check_sampler("random", 4, supervised=True, batch_size=8)
