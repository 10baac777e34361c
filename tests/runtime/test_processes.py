"""Processes that torchrun starts; several are in tests/engine/test_processes.py."""

from __future__ import annotations

import copy
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tcl_train.errors import RequestError, TrainingError
from tcl_train.runtime import processes
from tcl_train.runtime.processes import Processes, of_torchrun


def test_others_that_never_come_are_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "TIME_TO_JOIN", timedelta(seconds=1))
    said = rf"2 processes .* at 127.0.0.1:{port} within 1 s"
    with pytest.raises(TrainingError, match=said), of_torchrun():
        pass


def test_large_tensors_are_added_up_where_they_lie() -> None:
    images = torch.zeros(64, 64, 3, 3)
    last = images.to(memory_format=torch.channels_last)
    for given in (images, last):
        lying = processes._large(given)
        assert lying is not None
        assert lying.data_ptr() == given.data_ptr()
        assert lying.is_contiguous()
    assert processes._large(images[:, ::2]) is None  # with gaps
    assert processes._large(images[:2]) is None


# ------------------------------------------------------------------ threads play the processes

MACHINES, ON_EACH = 2, 2
COUNT = MACHINES * ON_EACH


def play(part: Callable[[Processes], None]) -> None:
    """Two processes on each of two machines."""
    store = dist.HashStore()
    threads = [
        threading.Thread(
            target=part,
            args=(Processes(rank, COUNT, rank % ON_EACH, ON_EACH, store=store),),
        )
        for rank in range(COUNT)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_machines_are_told_apart() -> None:
    machines = [Processes(rank, COUNT, rank % ON_EACH, ON_EACH).machine for rank in range(COUNT)]
    assert machines == [0, 0, 2, 2]


def test_the_first_process_of_each_machine_fills_its_cache() -> None:
    """The very first alone, for machines that share a disk; then one on each other machine, for
    those that do not. So nobody finds a file that another process of its machine is writing."""
    lock = threading.Lock()
    done: list[int] = []
    seen: dict[int, list[int]] = {}

    def part(place: Processes) -> None:
        for _ in range(2):  # a name may be used again
            with place.first_of_machine_alone("data"):
                with lock:
                    seen[place.rank] = list(done)
                time.sleep(0.05)
                with lock:
                    done.append(place.rank)
            place.wait_for_all("data")
            with lock:
                done.clear()
            place.wait_for_all("cleared")

    play(part)
    assert seen[0] == []
    assert seen[2][0] == 0
    assert 0 in seen[1]
    assert {0, 2} <= set(seen[3])


def test_nobody_goes_on_before_all_have_come() -> None:
    come: list[int] = []
    gone: list[int] = []

    def part(place: Processes) -> None:
        time.sleep(0.1 * (place.rank == 1))
        come.append(place.rank)
        place.wait_for_all("here")
        gone.append(len(come))

    play(part)
    assert gone == [COUNT] * COUNT


@pytest.mark.parametrize("failing", [1, 2])
def test_a_request_that_one_machine_cannot_carry_out_is_said_once_on_each(failing: int) -> None:
    errors: dict[int, RequestError] = {}

    def part(place: Processes) -> None:
        try:
            with place.failing_together():
                if place.rank == failing:
                    raise RequestError("dataset.root=x: nothing there")
                place.wait_for_all("built")
        except RequestError as error:
            errors[place.rank] = error

    play(part)
    machine = failing // ON_EACH
    for rank, error in errors.items():
        said, host, _ = str(error).partition(" (on ")
        assert said == "dataset.root=x: nothing there"
        assert bool(host) == (rank // ON_EACH != machine)  # names the machine where it is
    assert sorted(errors) == list(range(COUNT))
    speaking = [rank // ON_EACH for rank, error in errors.items() if not error.silent]
    assert sorted(speaking) == [0, 1]


def test_a_copy_of_what_asks_them_asks_the_same_ones() -> None:
    """The store of several processes cannot be copied."""
    processes = Processes(store=iter(()))
    assert copy.deepcopy({"of": processes})["of"] is processes
