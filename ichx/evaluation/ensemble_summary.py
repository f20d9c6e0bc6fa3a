"""What the report of an ensemble says about its choices and its score, for tables and pages."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.evaluation.ensemble import EnsembleReport


@dataclass(frozen=True)
class ChosenStep:
    """The choice for a part of a blend: its method, or a step that follows it."""

    part: str
    chosen: str
    gain: float
    """Decrease of the score on held-out patients by the choice, or by the best alternative that was not taken."""
    error: float | None
    """Standard error of the gain; None with too few patients."""
    same: int
    """Parts of the patients without which the same was chosen."""
    parts: int
    """Parts of the patients; 0 without a nested score."""


def chosen_steps(report: "EnsembleReport") -> list[ChosenStep]:
    """Return the method and each post-processing step with the gain on held-out patients of the best candidate."""
    steps = []
    for part in dict.fromkeys(trial.part for trial in report.choice.trials):
        trials = [trial for trial in report.choice.trials if trial.part == part]
        taken = [trial for trial in trials if trial.taken]
        best = taken[-1] if taken else max(trials, key=lambda trial: trial.gain)
        if part == "method":
            chosen = report.choice.method
            same = [other.method == report.choice.method for other in report.fold_choices]
        else:
            chosen = report.choice.steps[part] if taken else f"none; best: {best.name}"
            same = [(part in other.steps) == bool(taken) for other in report.fold_choices]
        steps.append(ChosenStep(part, chosen, best.gain, best.error, sum(same), len(same)))
    return steps


def weights_multiply_logits(report: "EnsembleReport") -> bool:
    """Return whether the weights multiply logits: they need not sum to 1."""
    return report.choice.method in ("logit", "per-label-logit", "stack")


def score_advice(report: "EnsembleReport") -> str:
    """Return what the nested score means, or why there is none, and whether to report it."""
    ensemble = report.ensemble
    if ensemble.nested_score is None:
        return "There is only one fold, so no nested score. The in-sample score is optimistic."
    if ensemble.leaked:
        advice = " The folds leak, so do not report it."
    else:
        advice = "" if report.selected or ensemble.selected else " Report this score."
    return f"The nested score blends each part with choices of the others.{advice}"


def optimistic_members(report: "EnsembleReport") -> list[str]:
    """Return a sentence for each member that makes the scores optimistic."""
    return [
        f"The scores are optimistic: experiment {member.experiment} ({member.name}): {member.why}."
        for member in report.selected
    ]


def clean_score_advice(report: "EnsembleReport") -> str:
    """Return the score to report instead of an optimistic one, or how to get one; empty if no member is selected."""
    if not report.selected:
        return ""
    if report.clean_score is not None:
        folds = ", ".join(map(str, report.clean_folds))
        return f"nested score over fold {folds}, which chose nothing: {report.clean_score:.5f}. Report this score."
    return (
        "No fold is without such a choice. Score the ensemble on patients that chose nothing: "
        f"`ichx evaluate --ensemble {report.ensemble.number} --dataset NAME`."
    )
