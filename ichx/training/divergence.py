"""Trainings that leave the finite numbers: detected before a checkpoint holds them, reported with their slices."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ichx.errors import DivergedError, StorageError
from ichx.files import write_text
from ichx.training.distributed import AgreedError

REMEDY = (
    "A rerun fails at the same step. Register another experiment with a lower learning rate "
    "(`--set stage.NAME.lr=...`) or in fp32 (`--set precision=fp32`)."
)


class NonFiniteWeightsError(DivergedError):
    """Weights have become infinite or NaN."""


class NonFiniteLossError(Exception):
    """The loss of step `step` (from 0) is infinite or NaN."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss of step {step} is {loss}")
        self.step, self.loss = step, loss


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raise `NonFiniteWeightsError` unless all floating-point values are finite; the device is waited for once."""
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floating:
        return
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    bad = [name for name, good in zip(floating, finite, strict=True) if not good]
    if bad:
        raise NonFiniteWeightsError(f"the weights {bad[0]} are no longer finite", REMEDY)


@dataclass(frozen=True)
class Divergence:
    """The step at which a training diverged; epoch and step count from 1."""

    stage: str
    epoch: int
    step: int
    steps: int
    lr: float
    problem: str
    slice_ids: list[str]
    slice_ids_of_the_step_before: list[str]

    def __str__(self) -> str:
        ids = self.slice_ids
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        return (
            f"Training diverged: {self.problem} at step {self.step} of {self.steps} of epoch {self.epoch} of stage "
            f"{self.stage}, lr {self.lr:.1e}, on the slices {', '.join(ids[:3])}{more}."
        )

    def write(self, path: Path, **context: Any) -> str:
        """Write all of it to `path` as JSON, after `context`; return a sentence about the file or why there is none."""
        try:
            write_text(path, json.dumps(context | asdict(self), indent=2) + "\n", "the slices of the diverged step")
        except StorageError as error:
            return error.problem
        return f"All of them are listed in {path}."


class TrainingDivergedError(AgreedError, DivergedError):
    """A training has diverged; raised in every process of a group."""

    code = "diverged"

    def __init__(self, problem: str, remedy: str = REMEDY, divergence: Divergence | None = None) -> None:
        super().__init__(problem, remedy)
        self.divergence = divergence
