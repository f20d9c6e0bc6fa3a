"""Signals that ask a run to stop: taken once, given back, heard where they were ignored."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ichx.training.stop_request import RunStopped, stop_on_signals


@pytest.fixture(params=["default", "ignored"])
def before(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Set Ctrl-C's handler to Python's own, or ignore it as a shell does in the background."""
    handler = {"default": signal.default_int_handler, "ignored": signal.SIG_IGN}[request.param]
    was = signal.signal(signal.SIGINT, handler)
    yield handler
    signal.signal(signal.SIGINT, was)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_is_a_request(before: Any, number: signal.Signals) -> None:
    notified = threading.Event()
    terminated = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(lambda message: notified.set()) as stop:
        assert stop.signal is None
        stop.raise_if_stopped()
        os.kill(os.getpid(), number)
        assert stop.signal == number
        with pytest.raises(RunStopped) as caught:
            stop.raise_if_stopped()
        assert caught.value.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}[number]
        assert notified.wait(30), "the user is informed"
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGTERM) == terminated


def test_a_second_ctrl_c_does_not_wait(before: Any) -> None:
    with stop_on_signals(lambda message: None):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert not isinstance(caught.value, RunStopped), "nothing was kept for it"


def test_a_second_sigterm_waits() -> None:
    with stop_on_signals(lambda message: None) as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.signal is not None


def test_repeated_hangups_are_one_request_and_keep_the_first_signal() -> None:
    with stop_on_signals(lambda message: None) as stop:
        try:
            with stop.interruptible():
                os.kill(os.getpid(), signal.SIGHUP)
        except RunStopped:
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGHUP


def test_work_without_sync_points_is_interrupted() -> None:
    with stop_on_signals(lambda message: None) as stop:
        with pytest.raises(RunStopped), stop.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(RunStopped), stop.interruptible():
            pytest.fail("a request from before was not heeded")


def test_another_thread_handles_no_signals() -> None:
    found: list[object] = []

    def listen() -> None:
        with stop_on_signals(lambda message: None) as stop:
            found.extend([signal.getsignal(signal.SIGTERM), stop.signal])

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM), None]
