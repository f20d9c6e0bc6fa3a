"""Checkpoints: what a fold needs to go on after its process died. Written atomically, the last two are kept."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ichx.errors import IchxError
from ichx.training.checkpoint_files import checkpoints

KEEP = 2
FORMAT = 1
"""Of what a checkpoint holds; changed whenever that is."""


@dataclass(frozen=True, order=True)
class Position:
    """How far a fold has come: `epoch` epochs of stage `stage` are done, and `batch` batches of the next one.

    All are counted from 0. When an epoch's batches are all done, its validation goes on; when a stage's epochs are, the
    next stage begins. When all of the last one's are, `batch` counts the slices that have been predicted.
    """

    stage: int
    epoch: int
    batch: int = 0


def save_checkpoint(folder: Path, position: Position, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) for `position`; remove all but the last two checkpoints.

    Raises `IchxError` on a full disk; the older checkpoints survive that.
    """
    target = folder / f"checkpoint-{position.stage:03d}-{position.epoch:05d}-{position.batch:09d}.pt"
    draft = target.with_suffix(f".{os.getpid()}.tmp")
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb", buffering=0) as raw:
                handle = _Telling(raw)
                torch.save(state | asdict(position) | {"format": FORMAT}, handle)  # type: ignore[arg-type]  # needs `write` only
                os.fsync(raw.fileno())
            draft.replace(target)
            _flush_folder(folder)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write of its archive as a RuntimeError that does not say why it failed
        cause = error if handle is None or handle.error is None else handle.error
        if not isinstance(cause, OSError):
            raise
        kept = "the one before is kept" if checkpoints(folder) else "there is none before it"
        raise IchxError(
            f"cannot write the checkpoint {target}: {cause.strerror or cause} ({kept})",
            "free some space or make the folder writable, then run again",
        ) from error
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, fits: str, note: Callable[[str], None]) -> tuple[Position, dict[str, Any]] | None:
    """Return the newest readable checkpoint whose `fits` entry is equal to `fits`; None where there is none.

    A damaged one is told through `note`, and the one before it is used.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            position = Position(stage=state["stage"], epoch=state["epoch"], batch=state["batch"])
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            note(f"{path.name} is damaged ({type(error).__name__}); trying the one before")
            continue
        if state.get("format") != FORMAT:
            note(f"{path.name} was written by another version of ichx; not used")
            continue
        if state.get("fits") != fits:
            note(f"{path.name} belongs to another training or other data; not used")
            continue
        return position, state
    return None


class _Telling(io.RawIOBase):
    """A file that remembers why a write failed, and writes all it is given."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[self._raw.write(rest) or 0 :]
        except OSError as error:
            self.error = error
            raise
        return size


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
