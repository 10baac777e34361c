"""A process that has ended without a word is noticed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from tcl_train.errors import TrainingError
from tcl_train.runtime import heartbeat
from tcl_train.runtime.heartbeat import Heartbeat
from tcl_train.runtime.processes import Processes


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Heartbeat, Heartbeat]]:
    monkeypatch.setattr(heartbeat, "SECONDS_BETWEEN_BEATS", 0.02)
    monkeypatch.setattr(heartbeat, "SECONDS_OF_SILENCE", 3.0)
    store = dist.HashStore()
    both = Heartbeat(store, 0, 2), Heartbeat(store, 1, 2)
    yield both
    for one in both:
        one.end()


def listen(one: Heartbeat, seconds: float) -> int | None:
    """Until it finds another silent, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (silent := one.silent()) is not None:
            return silent
        time.sleep(0.01)
    return None


def test_who_lives_is_heard_and_who_has_ended_is_missed(pair: tuple[Heartbeat, Heartbeat]) -> None:
    first, second = pair
    assert listen(first, 4.0) is None
    second.end()
    assert listen(first, 30) == 1


def test_who_was_heard_of_while_nobody_listened_lives(pair: tuple[Heartbeat, Heartbeat]) -> None:
    first, _ = pair
    time.sleep(3.5)
    assert listen(first, 0.5) is None


def test_waiting_for_one_that_has_ended_comes_to_an_end(pair: tuple[Heartbeat, Heartbeat]) -> None:
    first, second = pair
    second.end()
    processes = Processes(0, 2, store=dist.HashStore(), heartbeat=first)
    with pytest.raises(TrainingError, match="process 1 of 2 has not been heard of for"):
        processes.wait_for_all("built")
