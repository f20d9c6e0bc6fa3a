"""A trial of a study as Optuna has recorded it, and the ranking of trials."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from optuna.trial import TrialState

from ichx.tuning.budget import Value
from ichx.tuning.space import recorded_values

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES: Final = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class TrialView:
    """A trial."""

    trial: int
    """Number in the study, from 0."""
    experiment: int | None
    """None if the values are not valid together."""
    state: str
    """`done`, `pruned`, `failed` or `running`."""
    baseline: bool
    """Whether it is the unchanged recipe."""
    values: Mapping[str, Value]
    """Searched values by name."""
    score: float | None
    """Final score of a done trial, otherwise the last reported one."""
    exceeded: tuple[str, ...]
    """Names of the limits that it exceeds."""
    epochs: int | None
    """Trained epochs."""
    planned: int | None
    """Epochs of a complete training."""
    seconds: float | None
    error: str | None
    """Why it failed or was pruned."""
    log: str | None
    """Path within the workspace, if it failed."""
    excess: str = ""
    """Description of the exceeded limits."""
    deleted: bool = False
    """Whether its experiment was deleted."""
    raw_score: float | None = None
    """Score without calibration, at the same point as `score`."""
    warm_start: str | None = None
    """The earlier trial whose values it repeats, in words."""

    @property
    def eligible(self) -> bool:
        """Whether it can be the best trial: done, within all limits."""
        return self.state == "done" and not self.exceeded and self.score is not None


def trial_view(trial: "FrozenTrial") -> TrialView:
    """Return the view of a trial whose state is in `STATES`."""
    attrs, state = trial.user_attrs, STATES[trial.state]
    score = trial.values[0] if trial.state == TrialState.COMPLETE else None
    if score is None and trial.intermediate_values:
        score = trial.intermediate_values[max(trial.intermediate_values)]
    epochs, planned = attrs.get("epochs") or (None, None)
    raw = attrs.get("raw_score")
    return TrialView(
        trial=trial.number,
        experiment=attrs.get("experiment"),
        state=state,
        baseline=bool(attrs.get("baseline")),
        values=recorded_values(trial.params),
        score=score if score is not None and math.isfinite(score) else None,
        exceeded=tuple(sorted(name for name, value in trial.constraints.items() if value > 0)),
        epochs=epochs,
        planned=planned,
        seconds=attrs.get("seconds"),
        error={"failed": attrs.get("error"), "pruned": attrs.get("ended")}.get(state),
        log=attrs.get("log") if state == "failed" else None,
        excess=attrs.get("excess", ""),
        raw_score=raw if raw is not None and math.isfinite(raw) else None,
        warm_start=attrs.get("warm_start"),
    )


def ranked_trials(trials: Iterable[TrialView]) -> list[TrialView]:
    """Return the eligible trials, best first."""
    return sorted((t for t in trials if t.eligible), key=lambda t: (t.score, t.trial))
