"""Trainings that leave the finite numbers: noticed before a checkpoint holds them, told with their slices."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ichx.errors import IchxError

NOT_FINITE_REMEDY = (
    "run again as it is, it fails in the same place: register another experiment with a lower learning rate "
    "(--set stage.NAME.lr=...) or in fp32 (--set precision=fp32)"
)


class NotFiniteError(IchxError):
    """A training that has run into infinity, or nothing at all."""


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raise `NotFiniteError` unless all floating-point values are finite; the device is waited for once."""
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floating:
        return
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    bad = [name for name, good in zip(floating, finite, strict=True) if not good]
    if bad:
        raise NotFiniteError(f"the weights {bad[0]} are no longer finite numbers", NOT_FINITE_REMEDY)


@dataclass(frozen=True)
class Divergence:
    """Which step of a training came to which `problem`, on which slices; epoch and step are counted from 1."""

    experiment: int
    fold: int
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
            f"{self.problem} at step {self.step} of {self.steps} of epoch {self.epoch} of stage {self.stage}, "
            f"lr {self.lr:.1e}, on the slices {', '.join(ids[:3])}{more}"
        )

    def write(self, path: Path) -> str:
        """Write all of it to `path` as JSON; return where that is, or why it is nowhere."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            return f"{path} cannot be written: {error.strerror}"
        return f"all are listed in {path}"
