"""File descriptors of this process, for tests of what remains open and of what happens when there are none left."""

import gc
import os
from pathlib import Path


def open_files() -> int:
    """Return the number of open file descriptors, after those of garbage of earlier tests are closed."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def lowest_free_descriptor() -> int:
    """Return the number that the next file would get: with this limit of files, no file can be opened."""
    gc.collect()
    number = os.open("/dev/null", os.O_RDONLY)
    os.close(number)
    return number
