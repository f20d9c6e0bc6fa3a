"""Ctrl-C during the imports of a command ends the program at once.

As an exception it could be swallowed by a callback or a library, or leave a module half imported. No work has started
at that time.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

from ichx.signals import handle_signals

EXIT_CODE: Final = 130
"""Exit code that a shell expects of a program ended by Ctrl-C."""


@contextlib.contextmanager
def imports_end_at_once() -> Iterator[None]:
    """Let Ctrl-C end the program during a command's imports; elsewhere it raises `KeyboardInterrupt` as usual.

    Nothing changes if Ctrl-C is ignored or handled otherwise.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with handle_signals(_handle, (signal.SIGINT,)):
        yield


def _handle(number: int, frame: FrameType | None) -> None:
    if _is_command_import(frame):
        os.write(2, b"interrupted\n")
        os._exit(EXIT_CODE)
    signal.default_int_handler(number, frame)


def _is_command_import(frame: FrameType | None) -> bool:
    """Return whether `frame` belongs to an import statement of `ichx.cli`, directly or through other modules."""
    importing = False  # whether the frame below is part of an import, with only top levels of modules in between
    while frame is not None:
        import_machinery = frame.f_code.co_filename.startswith("<frozen importlib")
        if not import_machinery and importing and frame.f_globals.get("__name__", "").startswith("ichx.cli."):
            return True
        importing = import_machinery or (importing and frame.f_code.co_name == "<module>")
        frame = frame.f_back
    return False
