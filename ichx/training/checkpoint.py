"""Checkpoints: what a fold needs to go on after its process died. Written atomically, the last two are kept."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ichx.errors import IchxError

KEEP = 2


@dataclass(frozen=True)
class Position:
    """How far a fold has come: `epoch` epochs of stage `stage` are done, both counted from 0."""

    stage: int
    epoch: int


def save_checkpoint(folder: Path, position: Position, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) for `position`; remove all but the last two checkpoints.

    Raises `IchxError` on a full disk; the older checkpoints survive that.
    """
    target = folder / f"checkpoint-{position.stage:03d}-{position.epoch:05d}.pt"
    draft = target.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as handle:
                torch.save(state | {"stage": position.stage, "epoch": position.epoch}, handle)
                handle.flush()
                os.fsync(handle.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write of its archive as a RuntimeError.
        raise IchxError(f"cannot write the checkpoint {target}: {error}", "free some space, then run again") from error
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, fits: str, note: Callable[[str], None]) -> tuple[Position, dict[str, Any]] | None:
    """Return the newest readable checkpoint whose `fits` entry is equal to `fits`; None where there is none.

    A damaged one is told through `note`, and the one before it is used.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            position = Position(stage=state["stage"], epoch=state["epoch"])
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            note(f"{path.name} is damaged ({type(error).__name__}); trying the one before")
            continue
        if state.get("fits") != fits:
            note(f"{path.name} belongs to another recipe or other data; not used")
            continue
        return position, state
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Return the folder's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints and drafts of a finished fold."""
    for path in [*checkpoints(folder), *folder.glob("checkpoint-*.tmp")]:
        path.unlink(missing_ok=True)
