"""The signals that stop a run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tcl_train.errors import Interrupted, Stopped
from tcl_train.runtime.signals import (
    STOPPING,
    Signals,
    as_interruption,
    interrupting,
    obey_no_more,
    stop_if_interrupted,
)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_is_remembered_and_nothing_is_torn(signum: signal.Signals) -> None:
    signals = Signals()
    assert signals.received is None
    with signals.caught():
        signal.raise_signal(signum)
        assert signals.received == signum


def test_the_second_signal_stops_at_once() -> None:
    signals = Signals()
    with signals.caught():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.signum == signal.SIGINT


def test_a_signal_is_raised_where_it_comes_and_remembered() -> None:
    failure = ZeroDivisionError()
    with interrupting():
        stop_if_interrupted()
        assert as_interruption(failure) is failure
        with suppress(Stopped):  # as code of others drops it
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped) as caught:
            stop_if_interrupted()
        assert caught.value.signum == signal.SIGTERM
        interruption = as_interruption(failure)  # as code of others takes it for another
        assert isinstance(interruption, Stopped)
        assert interruption.__cause__ is failure
        in_good_order = Interrupted(signal.SIGTERM)
        assert as_interruption(in_good_order) is in_good_order
    stop_if_interrupted()  # what comes afterwards is another command


def test_what_is_done_is_not_interrupted_any_more() -> None:
    with interrupting():
        obey_no_more()
        signal.raise_signal(signal.SIGTERM)
        stop_if_interrupted()
    with interrupting(), pytest.raises(Stopped):  # another command is
        signal.raise_signal(signal.SIGTERM)


def test_outside_of_the_block_signals_are_what_they_were() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with Signals().caught():
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before

    def fail() -> None:
        with Signals().caught():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_process_that_was_started_to_ignore_the_end_of_its_terminal_still_does() -> None:
    """As nohup starts it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.caught():
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


ENDINGS = {
    "exit handlers": """
import atexit, time
from tcl_train.runtime.signals import ignored_at_exit
atexit.register(time.sleep, 1)  # runs after what is registered later
ignored_at_exit()
atexit.register(print, "ending", flush=True)
""",
    "before them": """
import time
from tcl_train.runtime.signals import interrupting
with interrupting(to_the_end=True):
    pass
print("ending", flush=True)
time.sleep(1)
""",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_while_the_process_ends_leaves_the_exit_status(signum: int, ending: str) -> None:
    command = [sys.executable, "-c", ENDINGS[ending]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ending\n"
        time.sleep(0.3)
        process.send_signal(signum)
        assert process.wait(timeout=60) == 0
