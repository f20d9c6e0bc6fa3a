"""Signal handlers: installed, restored, and not installed outside the main thread."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ichx.signals import STOP_SIGNALS, block_stop_signals, count_stop_signals, handle_signals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOP_SIGNALS]


def test_stop_signals_are_counted_and_handlers_restored() -> None:
    before = handlers()
    with count_stop_signals() as count:
        assert count() == 0
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert count() == 2
    assert handlers() == before


def test_handlers_are_restored_after_an_error() -> None:
    before = handlers()
    with pytest.raises(ZeroDivisionError), handle_signals(lambda *_: 1 // 0):
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers() == before


def test_another_thread_installs_no_handlers() -> None:
    found: list[object] = []

    def install() -> None:
        with handle_signals(lambda *_: None):
            found.extend(handlers())

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert found == handlers()


def test_a_blocked_signal_arrives_afterwards() -> None:
    with count_stop_signals() as count:
        with block_stop_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert count() == 0
        assert count() == 1


def test_a_worker_ignores_stop_signals() -> None:
    code = (
        "import os, signal; from ichx.signals import ignore_stop_signals; ignore_stop_signals()\n"
        "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"
