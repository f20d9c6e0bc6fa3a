"""What a trial may need at most: time per epoch and memory. Judged by its history, told to Optuna as constraints."""

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
    """Bounds for the experiment that a trial stands for; None is no bound.

    `epoch_seconds` is what the longest epoch may take on all patients, `memory_gb` what may be needed at once, in 1e9
    bytes.
    """

    epoch_seconds: float | None = None
    memory_gb: float | None = None

    def given(self) -> dict[str, float]:
        """Return the bounds that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def excess(self, history: "Sequence[EpochRecord]", subset: float, *, whole: bool) -> dict[str, float]:
        """Return by what part of it each bound is exceeded, 0 or less where it is kept; nothing of what is not known.

        Parts, because samplers add them up: seconds and GB would not weigh the same.
        An epoch of a trial that has a `subset` of the patients stands for one that is longer in proportion. A `whole`
        history is one that no epoch comes after.
        """
        needs = needed(history, subset, whole=whole)
        return {name: needs[name] / bound - 1 for name, bound in self.given().items() if name in needs}

    def told(self, excess: Mapping[str, float]) -> str:
        """Return in words which bounds are exceeded."""
        words = {
            EPOCH_SECONDS: "an epoch takes {:.4g} s on all patients, more than {:.4g} s",
            MEMORY_GB: "it needs {:.4g} GB, more than {:.4g} GB",
        }
        bounds = self.given()
        return "; ".join(
            words[name].format(bounds[name] * (1 + over), bounds[name]) for name, over in excess.items() if over > 0
        )


def needed(history: "Sequence[EpochRecord]", subset: float, *, whole: bool) -> dict[str, float]:
    """Return what a trial has been seen to need, by the names of `Limits`.

    The time is that of the stage whose epochs take longest in their median; a stage's first epoch, in which something
    may be compiled, counts only where the stage has no other.
    """
    times: dict[int, list[float]] = {}
    for record in history:
        times.setdefault(record.stage_index, []).append(record.values["seconds"])
    now = max(times, default=None)
    known = [seconds for index, seconds in times.items() if whole or index != now or len(seconds) > 1]
    longest = [statistics.median(seconds[1:] or seconds) for seconds in known]
    found = {EPOCH_SECONDS: max(longest) / subset} if longest else {}
    memory = [record.values[MEMORY_GB] for record in history if MEMORY_GB in record.values]
    return found | ({MEMORY_GB: max(memory)} if memory else {})
