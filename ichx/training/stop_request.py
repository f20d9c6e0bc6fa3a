"""Asking a run to stop. Ctrl-C or SIGTERM lets it end its step and keep what it has; a second Ctrl-C does not wait."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ichx.signals import handle_signals


class RunStopped(KeyboardInterrupt):
    """A run that `signal` asked to stop has stopped, and kept what it had."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal


class StopRequest:
    """Whether a signal has asked to stop. Loops look at `signal` between their steps."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.signal: int | None = None
        self._tell = tell
        self._at_once = False

    def heed(self) -> None:
        """Raise `RunStopped` where a signal has asked for it."""
        if self.signal is not None:
            raise RunStopped(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `RunStopped` wherever a signal finds this block: work without steps, of which nothing is lost."""
        self.heed()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal in; raise `KeyboardInterrupt` for a second Ctrl-C."""
        asked, self.signal = self.signal, number
        if self._at_once:
            raise RunStopped(number)
        if number == signal.SIGINT and asked == signal.SIGINT:
            raise KeyboardInterrupt
        if asked is None:
            # by a thread: this may have interrupted a line that is being printed
            message = "stopping after this step; Ctrl-C again stops at once"
            threading.Thread(target=self._tell, args=(message,), daemon=True).start()


@contextlib.contextmanager
def listening(tell: Callable[[str], None]) -> Iterator[StopRequest]:
    """Yield the request that Ctrl-C and SIGTERM set in this block; outside the main thread nothing sets it."""
    request = StopRequest(tell)
    with handle_signals(request.receive):
        yield request
