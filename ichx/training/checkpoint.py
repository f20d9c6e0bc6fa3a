"""Checkpoints: what a training needs to resume after its process died. Written atomically; two are kept."""

import io
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ichx.errors import StorageError
from ichx.experiment_files import checkpoint_name
from ichx.files import atomic_path
from ichx.training.checkpoint_files import checkpoints
from ichx.training.divergence import check_finite

KEEP = 2
FORMAT = 1
"""Version of the contents; raised whenever they change."""


@dataclass(frozen=True, order=True)
class Position:
    """How far a training has come: `epoch` epochs of `stage` are done, and `batch` batches of the next one.

    All count from 0. After an epoch's last batch its validation continues; after a stage's last epoch the next stage
    begins. After the last stage, `batch` counts the slices that are predicted.
    """

    stage: int
    epoch: int
    batch: int = 0


START = Position(0, 0)


@dataclass
class EpochSums:
    """Running sums of an epoch: the losses of its batches, its images, and seconds of training and validation."""

    loss: float = 0.0
    images: int = 0
    training: float = 0.0
    validating: float = 0.0


@dataclass
class Progress:
    """How far a training has come, apart from its weights."""

    position: Position = START
    sums: EpochSums = field(default_factory=EpochSums)
    logits: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Predictions so far by name, `(n, 6)` logits of the first n rows that were requested."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this, apart from the position."""
        return {
            "sums": asdict(self.sums),
            "logits": {name: torch.from_numpy(values) for name, values in self.logits.items()},
        }

    def restore(self, position: Position, state: dict[str, Any]) -> None:
        """Continue from the `state` of a checkpoint at `position`."""
        self.position, self.sums = position, EpochSums(**state["sums"])
        self.logits = {name: values.numpy() for name, values in state["logits"].items()}


class Checkpoints:
    """The progress of one training and its checkpoints. Without a folder nothing is written.

    A training sets `learned`, which returns the tensors to write with the progress.
    """

    def __init__(
        self,
        folder: Path | None = None,
        fits: str = "",
        *,
        every: float = 0.0,
        writes: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the checkpoints in `folder`.

        Args:
            folder: Where they are written; None keeps the progress in memory only.
            fits: What a checkpoint must have in common with this training to be resumed.
            every: Seconds between checkpoints within an epoch; 0 writes them after epochs only.
            writes: Whether this process writes: the first of a group.
            check: Called before each write; raises if this process may no longer write.
        """
        self.folder, self.fits, self.every = folder, fits, every
        self.progress = Progress()
        self.end: tuple[int, int] | None = None
        """Stage and epoch after which the training is over and only predictions are left."""
        self.learned: Callable[[], dict[str, Any]] = dict
        self.check = check
        self._writes = writes and folder is not None
        self._resumed: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._validating_since: float | None = None

    def load(self, note: Callable[[str], None]) -> bool:
        """Restore the progress of the newest checkpoint that fits; return whether there is one."""
        found = None if self.folder is None else load_newest(self.folder, self.fits, note)
        if found is None:
            return False
        position, self._resumed = found
        self.progress.restore(position, self._resumed)
        return True

    def take_resumed(self) -> dict[str, Any] | None:
        """Return the tensors of the checkpoint that was loaded, once: its memory is free afterwards."""
        resumed, self._resumed = self._resumed, None
        return resumed

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self.every > 0 and time.monotonic() - self._saved_at >= self.every

    def start_validation(self) -> None:
        """Count the time from here on as validation, until `end_validation`."""
        self._validating_since = time.perf_counter()

    def end_validation(self) -> None:
        """Stop counting validation time."""
        self._count_validation()
        self._validating_since = None

    def save(self) -> None:
        """Write a checkpoint of the progress and of what was learned.

        Raises:
            StorageError: The disk is full or the folder is not writable.
            NonFiniteWeightsError: The weights have diverged.
        """
        self._count_validation()
        at = self.progress.position
        if (at.stage, at.epoch) == self.end:
            predicted = sum(map(len, self.progress.logits.values()))
            self.progress.position = Position(at.stage, at.epoch, predicted)
        if self._writes and self.folder is not None:
            learned = self.learned()
            check_finite(learned.get("model", {}))
            self.check()
            state = {"fits": self.fits} | learned | self.progress.state()
            try:
                save_checkpoint(self.folder, self.progress.position, state)
            except StorageError:
                self.check()  # a process that took over has removed the unfinished file
                raise
        self._saved_at = time.monotonic()

    def _count_validation(self) -> None:
        if self._validating_since is not None:
            now = time.perf_counter()
            self.progress.sums.validating += now - self._validating_since
            self._validating_since = now


def save_checkpoint(folder: Path, position: Position, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) for `position`; remove all but the last two checkpoints.

    Raises:
        StorageError: The disk is full or the folder is not writable; older checkpoints survive.
    """
    target = folder / checkpoint_name(position.stage, position.epoch, position.batch)
    handle = None
    try:
        with atomic_path(target) as draft, draft.open("wb", buffering=0) as raw:
            handle = _RecordingFile(raw)
            torch.save(state | asdict(position) | {"format": FORMAT}, handle)  # type: ignore[arg-type]  # needs `write` only
    except (OSError, RuntimeError) as error:
        # torch reports a failed write of its archive as a RuntimeError without the reason.
        cause = error if handle is None or handle.error is None else handle.error
        if not isinstance(cause, OSError):
            raise
        previous = "The previous checkpoint is kept." if checkpoints(folder) else "There is no earlier checkpoint."
        raise StorageError(
            f"Cannot write the checkpoint {target}: {cause.strerror or cause}. {previous}",
            "Free some space or make the folder writable, then run again.",
        ) from error
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, fits: str, note: Callable[[str], None]) -> tuple[Position, dict[str, Any]] | None:
    """Return the newest readable checkpoint whose `fits` entry equals `fits`, or None.

    A damaged one is reported through `note`, and the one before it is used.
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


class _RecordingFile(io.RawIOBase):
    """A file that records why a write failed, and writes everything it receives."""

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
