"""The signals that stop a run."""

from __future__ import annotations

import signal

import pytest

from tcl_train.errors import Interrupted
from tcl_train.runtime.signals import Signals


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
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.exit_status == 130


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
