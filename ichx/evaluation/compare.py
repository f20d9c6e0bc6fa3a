"""Comparison of the OOF scores of two experiments or ensembles, paired over the slices that both predict.

What else differs between experiments is in `ichx.experiments.differences`; the interval is in
`ichx.evaluation.bootstrap`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import ConflictError, InvalidInputError, NotReadyError, did_you_mean
from ichx.evaluation.bootstrap import ScoreDifference, paired_difference
from ichx.evaluation.choices import Tta
from ichx.evaluation.delong import DeLong, compare_areas
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.metric import FloatArray, label_losses, row_losses, single_losses
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.scored_rows import ScoredRows
from ichx.evaluation.scores import pool_studies, positive
from ichx.evaluation.series_neighbours import IntArray
from ichx.labels import LABELS
from ichx.store import Ensemble, Experiment
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project

SHOWN = 10
"""Number of slices in `ScoreComparison.disagreements`."""


@dataclass(frozen=True)
class Disagreement:
    """A slice on which the losses of two predictions differ most."""

    slice_id: str
    positive: tuple[str, ...]
    """Its positive labels."""
    first_loss: float
    """Weighted loss, or that of the requested label."""
    second_loss: float
    first: tuple[float, ...]
    """Probabilities of the first prediction, `(6,)`."""
    second: tuple[float, ...]

    @property
    def label(self) -> str:
        """The label whose probabilities differ most."""
        return LABELS[max(range(len(LABELS)), key=lambda k: abs(self.first[k] - self.second[k]))]


@dataclass(frozen=True)
class ScoreComparison:
    """Scores on the slices that both predict."""

    tta: Tta
    slices: int
    first: float
    second: float
    difference: ScoreDifference
    """First less second: negative if the first is better."""
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]
    """Which slices do not count, and whether the folds differ."""
    first_labels: dict[str, float]
    """Log loss of each label by the first."""
    second_labels: dict[str, float]
    study_auc: dict[str, DeLong | None]
    """AUC of studies (maximum over slices) by label, with DeLong's test; None with too few studies of a class."""


def compare_scores(
    project: "Project",
    first: Experiment | Ensemble,
    second: Experiment | Ensemble,
    *,
    tta: Tta = "none",
    shown: int = SHOWN,
    label: str | None = None,
) -> ScoreComparison:
    """Return the paired comparison of two OOF predictions.

    Args:
        project: The open project.
        first: An experiment or ensemble.
        second: One on the same slices and labels; or on a part of the mixture of `first`, or the other way round.
        tta: Test-time augmentation of experiments, whose views are averaged; ensembles have one.
        shown: Number of slices in `disagreements`.
        label: Label whose loss ranks them; None: the weighted loss.

    Raises:
        ConflictError: The slices or labels differ.
        InvalidInputError: There is no such label or test-time augmentation.
        NotReadyError: There is no finished fold in common.
        IchxError: OOF predictions are missing, damaged or not out of fold (see `read_oof`, `read_ensemble_oof`).
    """
    if label is not None and label not in LABELS:
        hint = did_you_mean(label, LABELS)
        raise InvalidInputError(f"Unknown label: {label!r}.", f"{hint}Labels are {', '.join(LABELS)}.")
    digests = [_label_digest(project, scored) for scored in (first, second)]
    if digests[0] != digests[1] and not _common_datasets(project, first, second):
        raise _different(project, first, second)
    notes: list[str] = []
    one, two = (_read(project, scored, tta, notes) for scored in (first, second))
    rows, others = common_rows(one, two)
    if digests[0] != digests[1] and not np.array_equal(one.labels[rows], two.labels[others], equal_nan=True):
        raise _different(project, first, second)
    if not len(rows):
        runs = [f"`ichx run {e.number}`" for e in (first, second) if isinstance(e, Experiment)]
        raise NotReadyError(
            f"{_titles(first, second)} have no finished fold in common.", f"Run them: {', '.join(runs)}."
        )
    labels, p, q = one.labels[rows], one.probabilities[rows], two.probabilities[others]
    for scored, table, other in ((first, one, second), (second, two, first)):
        if left_out := len(table.slice_ids) - len(rows):
            what = f"{format_count(left_out, 'slice')} of {title(scored)}"
            notes.append(f"Without {what}, which {title(other)} does not predict.")
    subsets = [getattr(scored, "subset", 1.0) for scored in (first, second)]
    if subsets[0] != subsets[1]:
        shares = [
            f"{100 * subset:.3g} % ({title(scored)})" for subset, scored in zip(subsets, (first, second), strict=True)
        ]
        notes.append(f"Not a fair comparison: trained on {shares[0]} and {shares[1]} of the patients.")
    if digests[0] != digests[1] and np.array_equal(one.folds[rows], two.folds[others]):
        places = f"{_place(project, first)} and {_place(project, second)}"
        notes.append(f"Trained on {places}; the compared slices are in both, and in the same folds.")
    elif first.fold_digest != second.fold_digest:
        notes.append("The folds differ: each slice is out of fold for both, but they trained on different patients.")
    truth = one.truth.take(rows)
    before, after = truth.scored(p), truth.scored(q)
    if truth.unit == "study":
        notes.append("Only studies are labelled: scores are of studies, by the largest probability of their slices.")
    return ScoreComparison(
        tta=tta,
        slices=len(rows),
        first=before.score,
        second=after.score,
        difference=paired_difference(
            before.labels, before.probabilities, after.probabilities, one.patients[rows][before.row], ranked=True
        ),
        disagreements=_disagreements(one.slice_ids[rows], labels, (p, q), shown, label),
        notes=tuple(notes),
        first_labels=_losses_by_label(before),
        second_labels=_losses_by_label(after),
        study_auc=_study_areas(one.labels_to_pool[rows], p, q, one.studies[rows]),
    )


def _losses_by_label(scored: ScoredRows) -> dict[str, float]:
    return dict(zip(LABELS, label_losses(scored.labels, scored.probabilities).tolist(), strict=True))


def _common_datasets(project: "Project", first: Experiment | Ensemble, second: Experiment | Ensemble) -> set[str]:
    """Return the datasets that are in both, if at least one of these is a mixture."""
    versions = [project.store.version_by_id(scored.version_id) for scored in (first, second)]
    if not any(version.part_names for version in versions):
        return set()
    names = [{version.dataset, *version.part_names} for version in versions]
    return names[0] & names[1]


def _different(project: "Project", first: Experiment | Ensemble, second: Experiment | Ensemble) -> ConflictError:
    return ConflictError(
        f"{_titles(first, second)} have different slices or labels: {_place(project, first)} and "
        f"{_place(project, second)}.",
        "Compare experiments on the same dataset version, or on a mixture and one of its parts.",
    )


def title(scored: Experiment | Ensemble) -> str:
    """Return e.g. `experiment 6`."""
    return f"{'ensemble' if isinstance(scored, Ensemble) else 'experiment'} {scored.number}"


def conclusion(found: ScoreDifference, first: Experiment | Ensemble, second: Experiment | Ensemble) -> str:
    """Return a sentence on what the interval of the difference shows."""
    if first.leaked or second.leaked:
        return "The folds leak patients, so the difference may come from memorised patients."
    if found.low is None or found.high is None:
        return f"The difference has no interval: {found.undefined}"
    if found.low == found.high == 0:
        return "The predictions are identical."
    if found.low <= 0 <= found.high:
        return "The interval includes 0: no significant difference on these patients."
    return f"{title(first if found.high < 0 else second).capitalize()} is significantly better on these patients."


def undefined_reasons(found: ScoreDifference) -> dict[str, list[str]]:
    """Return why differences of labels have no interval, each reason with its labels."""
    reasons: dict[str, list[str]] = {}
    for name in LABELS:
        for reason in dict.fromkeys(d.undefined for d in (found.labels[name], found.auc[name]) if d.undefined):
            reasons.setdefault(reason, []).append(name)
    return reasons


def _titles(first: Experiment | Ensemble, second: Experiment | Ensemble) -> str:
    if isinstance(first, Experiment) and isinstance(second, Experiment):
        return f"Experiments {first.number} and {second.number}"
    return f"{title(first).capitalize()} and {title(second)}"


def _label_digest(project: "Project", scored: Experiment | Ensemble) -> str | None:
    if isinstance(scored, Experiment):
        return scored.label_digest
    return project.store.version_by_id(scored.version_id).label_digest


def _place(project: "Project", scored: Experiment | Ensemble) -> str:
    if isinstance(scored, Experiment):
        return f"{scored.dataset} v{scored.dataset_version}"
    return f"{scored.dataset} v{project.store.version_by_id(scored.version_id).number}"


def _read(project: "Project", scored: Experiment | Ensemble, tta: Tta, notes: list[str]) -> OofTable:
    """Return the OOF table; append to `notes` why it is not a fair one."""
    if isinstance(scored, Experiment):
        return read_oof(project, scored, tta)
    found = read_ensemble_oof(project, scored)
    if not found.nested:
        notes.append(f"Not a fair comparison: {title(scored)} has a single fold, so its score is in-sample.")
    return found.oof


def _study_areas(
    labels: FloatArray, p: FloatArray, q: FloatArray, studies: npt.NDArray[np.object_]
) -> dict[str, DeLong | None]:
    first, second = (pool_studies(labels, one, studies) for one in (p, q))
    areas = {}
    for k, name in enumerate(LABELS):
        known = ~np.isnan(first.labels[:, k])
        of_label = (first.probabilities[known, k], second.probabilities[known, k])
        areas[name] = compare_areas(positive(first.labels[known, k]), *of_label)
    return areas


def common_rows(one: OofTable, two: OofTable) -> tuple[IntArray, IntArray]:
    """Return the rows of `one` and of `two` that are the same slices, in the order of `one`."""
    other = pd.Index(two.slice_ids).get_indexer(pd.Index(one.slice_ids))
    rows = np.flatnonzero(other >= 0)
    return rows, other[rows]


def _disagreements(
    slice_ids: npt.NDArray[np.object_],
    labels: FloatArray,
    predicted: tuple[FloatArray, FloatArray],
    shown: int,
    label: str | None,
) -> tuple[Disagreement, ...]:
    def losses(p: FloatArray) -> FloatArray:
        found = single_losses(labels, p) if label is None else row_losses(labels, p)[:, LABELS.index(label)]
        return np.nan_to_num(found)  # nobody is wrong about a slice whose label is unknown

    first, second = map(losses, predicted)
    largest = np.argsort(-np.abs(first - second), kind="stable")[:shown]
    return tuple(
        Disagreement(
            slice_id=str(slice_ids[row]),
            positive=tuple(name for k, name in enumerate(LABELS) if labels[row, k] > 0.5),
            first_loss=float(first[row]),
            second_loss=float(second[row]),
            first=tuple(predicted[0][row].tolist()),
            second=tuple(predicted[1][row].tolist()),
        )
        for row in largest
        if first[row] != second[row]
    )
