"""Ctrl-C while a command still imports what it needs: it ends the program there and then.

As an exception it is lost in there, in a callback or in a library that swallows it, or leaves half a library behind for
the next import to stumble over. Nothing has begun by then that could be left unfinished.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from ichx.signals import handle_signals

EXIT = 130
"""What a shell expects of a program that Ctrl-C has ended."""


@contextlib.contextmanager
def imports_end_at_once() -> Iterator[None]:
    """Let Ctrl-C end the program during a command's imports, and raise `KeyboardInterrupt` elsewhere, as ever.

    Only where Ctrl-C raises it to begin with: not where it is ignored, nor outside the main thread.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with handle_signals(_receive, (signal.SIGINT,)):
        yield


def _receive(number: int, frame: FrameType | None) -> None:
    if _a_command_imports(frame):
        os.write(2, b"interrupted\n")
        os._exit(EXIT)
    signal.default_int_handler(number, frame)


def _a_command_imports(frame: FrameType | None) -> bool:
    """Tell whether `frame` is a part of an import that stands in `ichx.cli`, itself or through other modules'."""
    importing = False  # whether what is below is an import, and nothing between but other modules' top levels
    while frame is not None:
        within = frame.f_code.co_filename.startswith("<frozen importlib")
        if not within and importing and frame.f_globals.get("__name__", "").startswith("ichx.cli."):
            return True
        importing = within or (importing and frame.f_code.co_name == "<module>")
        frame = frame.f_back
    return False
