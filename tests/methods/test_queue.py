"""Rows of earlier batches.

S: rows of the queue.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tcl_train.methods.queue import Queue


def numbered(first, count):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].repeat(1, 2)


def held(queue):
    return sorted(queue.rows_SD[:, 0].tolist())


def test_it_begins_with_random_unit_rows():
    queue = Queue(6, 4)
    torch.testing.assert_close(queue.rows_SD.norm(dim=1), torch.ones(6))
    assert len(queue.rows_SD.unique(dim=0)) == 6
    assert not queue.is_pushed_S().any()


def test_rows_take_the_places_of_the_oldest_and_wrap_around():
    queue = Queue(5, 2)
    queue.push(numbered(0, 3))
    assert queue.rows_SD[:3, 0].tolist() == [0, 1, 2]
    assert queue.is_pushed_S().tolist() == [True] * 3 + [False] * 2
    queue.push(numbered(3, 3))
    assert queue.rows_SD[:, 0].tolist() == [5, 1, 2, 3, 4]
    assert queue.is_pushed_S().all()
    assert (queue.place, queue.pushed) == (1, 6)


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("count", [5, 6, 13])
def test_of_more_rows_than_it_holds_the_last_ones_stay(first, count):
    queue = Queue(5, 2)
    queue.push(numbered(100, first))
    queue.push(numbered(0, count))
    assert held(queue) == list(range(count - 5, count))
    assert queue.is_pushed_S().all()


@given(size=st.integers(1, 9), counts=st.lists(st.integers(0, 20), max_size=8))
def test_it_holds_the_newest_rows_after_any_pushes(size, counts):
    queue, first = Queue(size, 2), 0
    for count in counts:
        queue.push(numbered(first, count))
        first += count
    newest = list(range(max(0, first - size), first))
    kept = queue.rows_SD[queue.is_pushed_S()][:, 0].tolist()
    assert sorted(kept) == newest


def test_what_is_pushed_is_cut_off_from_its_gradient_and_copied():
    queue, rows_ND = Queue(4, 2), numbered(0, 2).requires_grad_()
    queue.push(rows_ND)
    with torch.no_grad():
        rows_ND += 10
    assert not queue.rows_SD.requires_grad
    assert queue.rows_SD[:2, 0].tolist() == [0, 1]


def test_rows_of_half_precision_are_kept_in_the_queue_s():
    queue = Queue(4, 2)
    queue.push(numbered(0, 2).bfloat16())
    assert queue.rows_SD.dtype == torch.float32


def test_the_place_and_the_rows_are_stored():
    one, other = Queue(5, 2), Queue(5, 2)
    one.push(numbered(0, 7))
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.push(numbered(7, 2))
    assert torch.equal(one.rows_SD, other.rows_SD)
    assert other.is_pushed_S().all()


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="queue"):
        Queue(0, 2)
