"""Files of a fold's checkpoints: find and remove them. Their contents are in `checkpoint`; no torch is needed here."""

import contextlib
from pathlib import Path

from ichx.experiment_files import CHECKPOINT_PATTERN
from ichx.files import DRAFT_PATTERN

OLD_DRAFTS = ("*.tmp", ".*.parquet.*")
"""Names of unfinished files that earlier versions have left."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the folder's checkpoints, oldest first by time: those of another training may be at a later position."""
    found = []
    for path in sorted(folder.glob(CHECKPOINT_PATTERN)):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def remove_drafts(folder: Path) -> None:
    """Remove unfinished checkpoints, weights and predictions that killed processes have left."""
    for pattern in (DRAFT_PATTERN, *OLD_DRAFTS):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints and drafts of a finished fold."""
    for path in checkpoints(folder):
        path.unlink(missing_ok=True)
    remove_drafts(folder)
