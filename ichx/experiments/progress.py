"""Progress of an experiment's runs, as `ichx exp watch` and the web app show it. No torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ichx.store import EpochRecord, Experiment, Run

RECENT_EPOCHS: Final = 3
"""The remaining time is extrapolated from this many epochs."""


def remaining_seconds(experiment: "Experiment", run: "Run", history: "Sequence[EpochRecord]") -> float | None:
    """Return the seconds that `run` still needs; None before an epoch has ended.

    Args:
        experiment: Its experiment.
        run: A run that has not ended.
        history: The epochs of its fold.
    """
    seconds = [record.values.get("seconds", 0.0) for record in history[-RECENT_EPOCHS:]]
    return (experiment.epochs - run.epochs_done) * sum(seconds) / len(seconds) if seconds else None
