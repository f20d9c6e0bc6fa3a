"""Scores with the caveats that must accompany them."""

from dataclasses import dataclass

from ichx.store.ensemble_snapshots import Ensemble
from ichx.store.snapshots import Experiment, ExperimentSummary


def marks_of_data(scored: ExperimentSummary | Ensemble) -> tuple[str, ...]:
    """Return the caveats of the folds and labels, which every score on them shares."""
    caveats = (("leaky folds", scored.leaked), ("transductive", scored.transductive))
    return tuple(mark for mark, applies in caveats if applies)


def marks(scored: ExperimentSummary | Ensemble) -> tuple[str, ...]:
    """Return the caveats that must accompany a score wherever it appears, e.g. `selected`; empty for most scores."""
    found = [*["selected"] * scored.selected, *marks_of_data(scored)]
    if isinstance(scored, ExperimentSummary) and scored.subset < 1:
        found.append(f"{100 * scored.subset:.3g} % of the patients")
    if scored.external or (isinstance(scored, ExperimentSummary) and scored.reads_external):
        found.append("external")
    if isinstance(scored, Ensemble):
        found += [f"partial ({scored.partial})"] if scored.partial else []
    elif scored.folds_done < scored.folds:
        found.append(f"partial ({scored.folds_done} of {scored.folds} folds)")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class PooledScore:
    """OOF score of an experiment, pooled over its finished folds."""

    experiment: int
    folds_done: int
    folds: int
    score: float | None
    score_low: float | None
    """Lower bound of the score's 95 % interval over patients."""
    score_high: float | None
    spread: float | None
    score_tta: float | None
    """Score of the mean over `views`."""
    views: tuple[str, ...]
    marks: tuple[str, ...]


def pooled_score(experiment: Experiment) -> PooledScore:
    """Return the score of `experiment` and what must accompany it."""
    return PooledScore(
        experiment=experiment.number,
        folds_done=experiment.folds_done,
        folds=experiment.folds,
        score=experiment.score,
        score_low=experiment.score_low,
        score_high=experiment.score_high,
        spread=experiment.spread,
        score_tta=experiment.score_tta,
        views=experiment.views,
        marks=marks(experiment),
    )
