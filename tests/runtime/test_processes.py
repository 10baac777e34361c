"""Processes that wait for each other, played by threads with one store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from tcl_train.errors import RequestError
from tcl_train.runtime.processes import Processes

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

    def part(processes: Processes) -> None:
        for _ in range(2):  # a name may be used again
            with processes.first_of_machine_alone("data"):
                with lock:
                    seen[processes.rank] = list(done)
                time.sleep(0.05)
                with lock:
                    done.append(processes.rank)
            processes.wait_for_all("data")
            with lock:
                done.clear()
            processes.wait_for_all("cleared")

    play(part)
    assert seen[0] == []
    assert seen[2][0] == 0
    assert 0 in seen[1]
    assert {0, 2} <= set(seen[3])


def test_nobody_goes_on_before_all_have_come() -> None:
    come: list[int] = []
    gone: list[int] = []

    def part(processes: Processes) -> None:
        time.sleep(0.1 * (processes.rank == 1))
        come.append(processes.rank)
        processes.wait_for_all("here")
        gone.append(len(come))

    play(part)
    assert gone == [COUNT] * COUNT


@pytest.mark.parametrize("failing", [1, 2])
def test_a_request_that_one_machine_cannot_carry_out_is_said_once_on_each(failing: int) -> None:
    errors: dict[int, RequestError] = {}

    def part(processes: Processes) -> None:
        try:
            with processes.failing_together():
                if processes.rank == failing:
                    raise RequestError("dataset.root=x: nothing there")
                processes.wait_for_all("built")
        except RequestError as error:
            errors[processes.rank] = error

    play(part)
    machine = failing // ON_EACH
    for rank, error in errors.items():
        said, host, _ = str(error).partition(" (on ")
        assert said == "dataset.root=x: nothing there"
        assert bool(host) == (rank // ON_EACH != machine)  # names the machine where it is
    assert sorted(errors) == list(range(COUNT))
    speaking = [rank // ON_EACH for rank, error in errors.items() if not error.silent]
    assert sorted(speaking) == [0, 1]
