"""Stop requests: a stop signal ends a run after its step, with a checkpoint; a second Ctrl-C ends it at once."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from ichx.signals import acknowledge_signals, handle_signals


class RunStopped(KeyboardInterrupt):
    """A run has stopped on request of `signal`; its progress is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """Exit code that a shell expects after the signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signal


class StopRequest:
    """Whether a signal has requested a stop. Loops check `signal` between their steps."""

    def __init__(self, note: Callable[[str], None] = lambda message: None) -> None:
        self.signal: int | None = None
        self._note = note
        self._at_once = self._was_at_once = self._acknowledged = False

    def raise_if_stopped(self) -> None:
        """Raise `RunStopped` if a signal has requested it."""
        if self.signal is not None:
            raise RunStopped(self.signal)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise `RunStopped` anywhere in this block: work without steps, of which nothing is lost."""
        self.raise_if_stopped()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; raise `KeyboardInterrupt` for a second Ctrl-C."""
        if number != signal.SIGINT and self.signal is not None:
            return  # schedulers repeat signals, and the kernel and a shell both send SIGHUP
        previous, self.signal = self.signal, number
        if self._at_once:
            self._was_at_once = True
            raise RunStopped(number)
        if number == signal.SIGINT and previous == signal.SIGINT:
            raise KeyboardInterrupt

    def acknowledge(self, _number: int) -> None:
        """Report the first signal; called in a thread, because a step may last."""
        if self._acknowledged:
            return
        self._acknowledged = True
        if self._at_once or self._was_at_once:
            self._note("stopping when the files that are being written are complete; Ctrl-C again stops at once")
        else:
            self._note("stopping after this step; Ctrl-C again stops at once")


@contextlib.contextmanager
def stop_on_signals(note: Callable[[str], None]) -> Iterator[StopRequest]:
    """Yield the request that a stop signal sets in this block; outside the main thread nothing sets it."""
    request = StopRequest(note)
    with acknowledge_signals(request.acknowledge), handle_signals(request.receive):
        yield request
