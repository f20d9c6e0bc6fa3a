"""How far a fold has come, beside what its network has learnt, and how that gets into checkpoints and out of them."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ichx.training import checkpoint
from ichx.training.checkpoint import Position
from ichx.training.divergence import check_finite

START = Position(0, 0)


@dataclass
class EpochSums:
    """What an epoch has come to: the sum of its batches' losses, its images, and seconds of training and validation."""

    loss: float = 0.0
    images: int = 0
    training: float = 0.0
    validating: float = 0.0


@dataclass
class Progress:
    """How far a fold has come. `logits` are those predicted so far, (n, 6) float32 of the first n slices asked for."""

    position: Position = START
    sums: EpochSums = field(default_factory=EpochSums)
    logits: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this, beside the position."""
        return {
            "sums": asdict(self.sums),
            "logits": {name: torch.from_numpy(values) for name, values in self.logits.items()},
        }

    @classmethod
    def of(cls, position: Position, state: dict[str, Any]) -> "Progress":
        """Return the progress that a checkpoint at `position` holds."""
        logits = {name: values.numpy() for name, values in state["logits"].items()}
        return cls(position, EpochSums(**state["sums"]), logits)


class Saver:
    """Writes a fold's checkpoints, after every epoch and every `seconds` (0: never) within one."""

    def __init__(self, folder: Path, fits: str, seconds: float, held: Callable[[], None], writes: bool) -> None:
        """Take `held`, which raises where the fold is no longer held; only a process that `writes` does."""
        self._folder, self._fits, self._seconds = folder, fits, seconds
        self._held, self._writes = held, writes
        self._at = time.monotonic()

    def due(self) -> bool:
        """Whether the time for a checkpoint has come."""
        return self._seconds > 0 and time.monotonic() - self._at >= self._seconds

    def save(self, progress: Progress, learnt: dict[str, Any]) -> None:
        """Write a checkpoint of `progress` and of what the network has `learnt`, as `Learner.state` returns it.

        Raises `IchxError` on a full disk and `NotFiniteError` for a network that predicts nothing any more.
        """
        if self._writes:
            check_finite(learnt.get("model", {}))
            self._held()
            state = {"fits": self._fits} | learnt | progress.state()
            checkpoint.save_checkpoint(self._folder, progress.position, state)
        self._at = time.monotonic()
