"""What an ensemble records about its making: choices with their gains, scores, submissions."""

from dataclasses import dataclass

from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.nested_score import Alternative
from ichx.evaluation.selecting_folds import SelectedMember


@dataclass(frozen=True)
class Submission:
    """A submission file."""

    test_set: str
    path: str
    images: int
    filled: int
    """Images of the sample without a slice; they got the training prevalences."""


@dataclass(frozen=True)
class BlendChoice:
    """What a fit of the blend chose, and why."""

    fold: int | None
    """The part of the patients that was held out, or the fold, of an ensemble of ichx 0.1; None: the fit used all."""
    method: str
    why: str
    """Reason for the method."""
    members: tuple[int, ...]
    """Experiments that the blend was fitted to."""
    dropped: tuple[int, ...]
    """Those of `members` without any weight."""
    weights: dict[int, float]
    certificate: float | None
    """Upper bound of how far the loss is above the optimum, if the method finds one."""
    steps: dict[str, str]
    """What follows the blend."""
    trials: tuple[Alternative, ...]


@dataclass(frozen=True)
class BlendRecord:
    """All of the report of an ensemble except what the store has."""

    names: dict[int, str]
    """Names of the members, by falling OOF score."""
    best_single: float
    """OOF score of the best member."""
    mean_score: float
    """OOF score of the members' mean."""
    gap: float | None
    """The nested score less the in-sample score."""
    interval: Interval | None
    """The nested score with its interval over patients."""
    choice: BlendChoice
    """The fit on all patients, which made the submissions."""
    fold_choices: tuple[BlendChoice, ...]
    """The fits that made the nested score."""
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...]
    selected: tuple[SelectedMember, ...] = ()
    """Members about which folds chose something."""
    clean_folds: tuple[int, ...] = ()
    """The folds that chose nothing about any member, if others did."""
    clean_score: float | None = None
    """The nested score over the slices of `clean_folds`."""
