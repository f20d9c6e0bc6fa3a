"""What garbage collection finds: files and folders that nothing needs, and how it measures them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FRESH_SECONDS: Final = 24 * 3600
"""Younger files are never garbage: another process may be writing them."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can be deleted; `experiment` is its number if it is an experiment in the trash."""

    kind: str
    path: Path
    nbytes: int
    reason: str
    experiment: int | None = None
    move: bool = False
    """Whether it is moved to the workspace's trash instead."""


def is_idle(folder: Path, seconds: float | None = None) -> bool:
    """Return whether nothing was written to a folder for a time, by default a day."""
    newest = max((path.lstat().st_mtime for path in folder.rglob("*")), default=0.0)
    return time.time() - newest > (FRESH_SECONDS if seconds is None else seconds)
