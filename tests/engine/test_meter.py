"""Rates of images and of waiting, by a clock that the tests set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcl_train.engine import meter as module
from tcl_train.engine.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def slow(clock: Clock, seconds: list[float]) -> Iterator[int]:
    """Batches, each of which takes so long to come."""
    for number, wait in enumerate(seconds):
        clock.now += wait
        yield number


def test_it_counts_waiting_and_rates(clock: Clock) -> None:
    meter = Meter()
    with meter.running():
        for _ in meter.timed(slow(clock, [1, 1, 1])):
            clock.now += 3
            meter.images += 8
        assert meter.lap() == {"images_per_second": 2.0, "data_wait_percent": 25.0}
    assert meter.seconds == 12
    assert meter.total() == {"images_per_second": 2.0, "data_wait_percent": 25.0}


def test_time_outside_the_block_does_not_count(clock: Clock) -> None:
    meter = Meter()
    for _ in range(2):
        with meter.running():
            clock.now += 5
        clock.now += 100
    assert meter.seconds == 10


def test_time_counts_up_to_an_error(clock: Clock) -> None:
    meter = Meter()

    def fail() -> None:
        with meter.running():
            clock.now += 5
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 100
    assert meter.seconds == 5


def test_a_lap_begins_where_the_last_one_ended(clock: Clock) -> None:
    meter = Meter()
    with meter.running():
        for images, seconds in ((10, 1), (30, 2), (0, 4)):
            meter.images += images
            clock.now += seconds
            assert meter.lap()["images_per_second"] == images / seconds
        assert meter.total()["images_per_second"] == 40 / 7


def test_batches_pass_as_they_are_and_a_loop_may_stop_early(clock: Clock) -> None:
    meter = Meter()
    assert list(meter.timed(slow(clock, [1, 2, 3]))) == [0, 1, 2]
    assert meter.waited == 6
    next(meter.timed(slow(clock, [7, 100])))
    assert meter.waited == 13


def test_without_any_time_no_rate_is_a_division_by_zero(clock: Clock) -> None:
    meter = Meter()
    rates = {"images_per_second": 0.0, "data_wait_percent": 0.0}
    assert (meter.total(), meter.lap()) == (rates, rates)


spans = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 99)), min_size=2, max_size=8
)


@settings(max_examples=50)
@given(spans=spans, data=st.data())
def test_a_meter_that_was_stored_goes_on_as_if_nothing_had_been(
    spans: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Each span: seconds of waiting, of work, and images."""
    cut = data.draw(st.integers(0, len(spans)))
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "perf_counter", clock)

        def go_on(meter: Meter, part: list[tuple[int, int, int]]) -> Meter:
            with meter.running():
                batches = meter.timed(slow(clock, [waiting for waiting, _, _ in part]))
                for _, (_, work, images) in zip(batches, part, strict=False):
                    clock.now += work
                    meter.images += images
            return meter

        whole = go_on(Meter(), spans)
        stored = go_on(Meter(), spans[:cut]).state_dict()
        clock.now += 1000
        again = go_on(Meter(**stored), spans[cut:])
    assert again.state_dict() == whole.state_dict()
    assert again.total() == whole.total()
    assert whole.total()["data_wait_percent"] <= 100
