"""Threads end early where their work is not needed any more."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from tcl_train.runtime.threads import Threads


def test_what_is_submitted_is_done_by_threads_that_have_begun() -> None:
    begun: list[int] = []
    with Threads(3, lambda: begun.append(threading.get_ident())) as threads:
        assert threads.count == 3
        tasks = [threads.submit(pow, n, 2) for n in range(20)]
        assert [task.result() for task in tasks] == [n**2 for n in range(20)]
        assert not threads.stopping
    assert 1 <= len(begun) <= 3
    assert threading.get_ident() not in begun


def test_there_is_always_one() -> None:
    with Threads(0) as threads:
        assert threads.count == 1
        assert threads.submit(lambda: 5).result() == 5


def test_when_the_block_is_left_running_tasks_are_told_and_others_dropped() -> None:
    running = threading.Event()
    seen: list[bool] = []
    tasks: list[Future[None]] = []

    def work() -> None:
        running.set()
        while not threads.stopping:
            pass
        seen.append(threads.stopping)

    with Threads(1) as threads:
        tasks += [threads.submit(work) for _ in range(3)]
        assert running.wait(10)
    assert seen == [True]
    assert [task.cancelled() for task in tasks] == [False, True, True]
