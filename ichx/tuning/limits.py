"""Limits of trials: time per epoch and memory. Checked on a trial's history; Optuna gets them as constraints."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.store import EpochRecord

EPOCH_SECONDS = "epoch_seconds"
MEMORY_GB = "memory_gb"


@dataclass(frozen=True)
class Limits:
    """Upper bounds for the experiment that a trial would be promoted to; None is no bound."""

    epoch_seconds: float | None = None
    """Of the longest epoch, on all patients."""
    memory_gb: float | None = None
    """Peak memory of the device in 1e9 bytes."""

    def to_dict(self) -> dict[str, float]:
        """Return the bounds that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def excess(self, history: "Sequence[EpochRecord]", subset: float, *, complete: bool) -> dict[str, float]:
        """Return the relative excess over each bound for which the history suffices; 0 or less if the bound is met.

        Samplers add the values up; as relative values, seconds and GB have the same weight.

        Args:
            history: Epochs of a trial.
            subset: Share of the patients that the trial uses; its epochs are scaled to all of them.
            complete: Whether no more epochs follow.
        """
        needs = measured_needs(history, subset, complete=complete)
        return {name: needs[name] / bound - 1 for name, bound in self.to_dict().items() if name in needs}

    def describe(self, excess: Mapping[str, float]) -> str:
        """Return in words which bounds are exceeded."""
        formats = {
            EPOCH_SECONDS: "an epoch takes {:.4g} s on all patients, more than {:.4g} s",
            MEMORY_GB: "it needs {:.4g} GB, more than {:.4g} GB",
        }
        bounds = self.to_dict()
        return "; ".join(
            formats[name].format(bounds[name] * (1 + part), bounds[name]) for name, part in excess.items() if part > 0
        )


def measured_needs(history: "Sequence[EpochRecord]", subset: float, *, complete: bool) -> dict[str, float]:
    """Return what a trial has needed so far, by the names of `Limits`.

    The time is the largest median of a stage. The first epoch of a stage, which may include compilation, counts only if
    it is the only one.
    """
    times: dict[int, list[float]] = {}
    for record in history:
        times.setdefault(record.stage_index, []).append(record.values["seconds"])
    current = max(times, default=None)
    usable = [seconds for index, seconds in times.items() if complete or index != current or len(seconds) > 1]
    medians = [statistics.median(seconds[1:] or seconds) for seconds in usable]
    needs = {EPOCH_SECONDS: max(medians) / subset} if medians else {}
    memory = [record.values[MEMORY_GB] for record in history if MEMORY_GB in record.values]
    return needs | ({MEMORY_GB: max(memory)} if memory else {})
