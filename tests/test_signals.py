"""Signal handlers: installed, restored, and not installed outside the main thread."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ichx.signals import STOP_SIGNALS, acknowledge_signals, block_stop_signals, count_stop_signals, handle_signals


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


def test_hangups_count_once_and_only_as_the_first() -> None:
    with count_stop_signals() as count:
        for number, expected in ((signal.SIGHUP, 1), (signal.SIGHUP, 1), (signal.SIGINT, 2), (signal.SIGHUP, 2)):
            os.kill(os.getpid(), number)
            assert count() == expected


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with count_stop_signals() as count:
            os.kill(os.getpid(), signal.SIGHUP)
            assert count() == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # threads of other tests do not block it
            assert count() == 0
        assert count() == 1


def test_a_worker_ignores_stop_signals() -> None:
    code = (
        "import os, signal; from ichx.signals import ignore_stop_signals; ignore_stop_signals()\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.kill(os.getpid(), number)\n"
        "print('alive')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"


NATIVE = """
import hashlib, sys, threading
from ichx.signals import acknowledge_signals, handle_signals
from ichx.training.stop_request import stop_on_signals

def acknowledge(text):
    print("acknowledged", text, flush=True)

with {block}:
    print("began", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes of native code, without handlers
    print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("block", "word"),
    [
        # a handler that returns: the signal may arrive before the native code
        ("acknowledge_signals(acknowledge, 0.1), handle_signals(lambda *_: None)", "2"),
        ("stop_on_signals(acknowledge)", "step"),
    ],
)
def test_a_signal_is_acknowledged_during_native_code(block: str, word: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NATIVE.format(block=block)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "began\n"
            process.send_signal(signal.SIGINT)
            line = process.stdout.readline()
        finally:
            process.kill()
    assert line.startswith("acknowledged ")
    assert word in line


def test_acknowledging_ends_with_its_block() -> None:
    numbers: list[int] = []
    arrived = threading.Event()
    with count_stop_signals() as count:
        with acknowledge_signals(lambda number: (numbers.append(number), arrived.set())):
            os.kill(os.getpid(), signal.SIGTERM)
            assert arrived.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        with acknowledge_signals(numbers.append, delay=60.0):
            os.kill(os.getpid(), signal.SIGINT)
        assert count() == 3
    assert numbers == [signal.SIGTERM]
    threads = [thread for thread in threading.enumerate() if thread.name == "ichx-signals"]
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
