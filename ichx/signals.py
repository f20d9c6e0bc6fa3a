"""Signal handling: handlers that are restored afterwards, and workers that leave Ctrl-C and SIGTERM to their parent."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the signal by which `kill`, schedulers and init systems ask a program to stop, and the signal of a terminal
that closes, e.g. because an ssh connection drops.
"""

_counted: list[int] = []
"""The stop signals that `count_stop_signals` has counted in this process."""


@contextmanager
def handle_signals(
    handler: Callable[[int, FrameType | None], Any], signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Handle `signals` with `handler` in this block, even if they were ignored, and restore the previous handlers.

    An ignored SIGHUP stays ignored: `nohup` asks for that. Outside the main thread, where Python installs no handlers,
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [s for s in signals if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def acknowledge_signals(acknowledge: Callable[[int], object], delay: float = 0.0) -> Iterator[None]:
    """Call `acknowledge` with the number of each handled stop signal that arrives in this block, in another thread.

    A handler runs only between two instructions of the main thread, which may be in native code for minutes.

    Args:
        acknowledge: Prints that the signal has arrived.
        delay: Seconds after which it is called, unless the block has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def work() -> None:
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while received := signals.read(1):
                if received[0] in STOP_SIGNALS and not ended.wait(delay):
                    acknowledge(received[0])

    with block_stop_signals():  # the thread inherits that: signals arrive where they can be blocked
        threading.Thread(target=work, name="ichx-signals", daemon=True).start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
        if delay:
            ended.set()
        os.close(writer)


@contextmanager
def count_stop_signals() -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many stop signals have arrived; none of them ends the process in this block.

    The caller reports them. All SIGHUP count as one, and only as the first: both a shell and the kernel send it.
    """
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP or not received:
            received.append(number)
            _counted.append(number)

    with acknowledge_signals(lambda number: None), handle_signals(receive):
        yield lambda: len(received)


def stop_exit_code() -> int:
    """Return the exit code that a shell expects after the first signal counted: 130, 143 or 129; 130 without one."""
    return 128 + (_counted[0] if _counted else signal.SIGINT)


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Hold stop signals back in this block. A process started in it never gets them, even before it ignores them."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def ignore_stop_signals() -> None:
    """Ignore stop signals in this worker process: its parent handles them and ends it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
