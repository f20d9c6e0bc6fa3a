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
    averaging_gain: float | None = None
    """By how much the mean of the folds' networks scores lower on these slices than single ones do on average."""


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
class LabelLoss:
    """The log loss of one label: what the blend gains or loses; None for a label that is not known for any slice."""

    label: str
    best_single: float | None
    """That of the member with the best score."""
    mean: float | None
    """That of the members' mean."""
    blend: float | None
    """That of the nested predictions; of the in-sample ones if there are no nested ones."""
    weights: dict[int, float] | None
    """Weights of the experiments for this label; None if the method has none by label."""


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
    labels: tuple[LabelLoss, ...] = ()
    """Gains and losses by label; empty for an ensemble of ichx 0.1."""
    nested_mean: float | None = None
    """Estimate for the mean of the folds' networks: the nested score, which is that of single ones, less their
    `averaging_gain` on the first test set; None without a test set, for one fold or if probabilities are averaged."""
    selected: tuple[SelectedMember, ...] = ()
    """Members about which folds chose something."""
    clean_folds: tuple[int, ...] = ()
    """The folds that chose nothing about any member, if others did."""
    clean_score: float | None = None
    """The nested score over the slices of `clean_folds`."""
