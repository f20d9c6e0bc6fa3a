"""The files of a fold's checkpoints: found, and removed when nothing needs them. What is in them is in `checkpoint`."""

import contextlib
from pathlib import Path


def checkpoints(folder: Path) -> list[Path]:
    """Return the folder's checkpoints, oldest first: by time, for another training's may stand further on."""
    found = []
    for path in sorted(folder.glob("checkpoint-*.pt")):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def remove_drafts(folder: Path) -> None:
    """Remove what processes that died while they wrote have left: drafts of checkpoints, weights and predictions."""
    for path in [*folder.glob("*.tmp"), *folder.glob(".*.parquet.*")]:
        path.unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints and drafts of a finished fold."""
    for path in checkpoints(folder):
        path.unlink(missing_ok=True)
    remove_drafts(folder)
