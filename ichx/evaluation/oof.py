"""Out-of-fold tables: each training slice as predicted by the one fold that did not train on its patient.

Their scores are in `ichx.evaluation.scorecard`. An experiment whose folds split patients is marked as leaky: there, a
fold trained on other slices of the patients that it predicts.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.folds import find_leaks
from ichx.datasets.mixture import PART, mixture_parts
from ichx.datasets.patient_subset import subset_folds
from ichx.datasets.study_labels import has_study_labels, slice_truth, study_truth
from ichx.errors import ChangedDataError, NotReadyError
from ichx.evaluation.choices import Average, Tta, check_average, check_tta, views_of
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.predictions import Predictions, read_predictions
from ichx.evaluation.scored_rows import ScoredRows, Truth
from ichx.labels import LABELS
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment, Prediction
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class OofTable:
    """The OOF predictions of an experiment, in the dataset's row order."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`"""
    folds: npt.NDArray[np.int16]
    """`(N,)`"""
    labels: FloatArray
    """`(N, 6)`"""
    probabilities: FloatArray
    """`(N, 6)`"""
    left_out: int
    """Slices of these folds that could not be decoded and have no prediction."""
    patients: npt.NDArray[np.object_]
    """The catalog's patient ids, `(N,)`."""
    studies: npt.NDArray[np.object_]
    """The catalog's study ids, `(N,)`."""
    study_probabilities: FloatArray | None = None
    """`(N, 6)`: of each slice's study, as a sequence experiment predicts them; None for other experiments."""
    study_labels: FloatArray | None = None
    """`(N, 6)` labels to pool into those of studies, see `study_truth`; None if they are `labels`."""

    parts: npt.NDArray[np.object_] | None = None
    """`(N,)`: the part of each slice of a mixture; None for other datasets."""

    @property
    def truth(self) -> Truth:
        """What the scores are computed from."""
        return Truth(self.labels, self.labels if self.study_labels is None else self.study_labels, self.studies)

    def take(self, rows: npt.NDArray[np.int64]) -> "OofTable":
        """Return the table of some of its slices."""
        names = ("slice_ids", "folds", "labels", "probabilities", "patients", "studies")
        optional = ("study_probabilities", "study_labels", "parts")
        chosen = {name: getattr(self, name)[rows] for name in names}
        chosen |= {name: getattr(self, name)[rows] for name in optional if getattr(self, name) is not None}
        return replace(self, **chosen)

    @property
    def labels_to_pool(self) -> FloatArray:
        """The labels `(N, 6)` whose maximum over a study is the study's label."""
        return self.truth.to_pool

    def scored(self, fold: int | None = None) -> ScoredRows:
        """Return what the score is of: the slices, or studies by their largest probability; of one fold if not None."""
        if fold is None:
            return self.truth.scored(self.probabilities)
        rows = np.flatnonzero(self.folds == fold)
        found = self.truth.take(rows).scored(self.probabilities[rows])
        return replace(found, row=rows[found.row])

    @property
    def score(self) -> float:
        """The pooled weighted log loss over all slices, or over all studies; see `Truth.unit`."""
        return self.scored().score

    @property
    def fold_scores(self) -> dict[int, float]:
        """The score of each fold."""
        return {int(k): self.scored(int(k)).score for k in np.unique(self.folds)}

    @property
    def spread(self) -> float | None:
        """The standard deviation of the folds' scores; None for a single fold."""
        scores = [value for value in self.fold_scores.values() if not np.isnan(value)]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def read_oof(
    project: "Project",
    experiment: "Experiment",
    tta: Tta = "none",
    only: Collection[int] | None = None,
    *,
    average: Average = "logit",
) -> OofTable:
    """Return the OOF table of an experiment's finished folds.

    Args:
        project: The open project.
        experiment: The experiment.
        tta: Test-time augmentation, whose views are averaged.
        only: The folds to read, if finished; None: all.
        average: What is averaged over views.

    Raises:
        InvalidInputError: There is no such test-time augmentation or average.
        NotReadyError: No fold is finished, or a view is not predicted.
        ChangedDataError: Predictions are missing, a slice is predicted twice or by a fold that trained on it, or folds
            split patients and the experiment is not marked.
        CorruptFileError: A prediction file is damaged.
    """
    check_tta(tta)
    check_average(average)
    number = experiment.number
    version = project.store.version_by_id(experiment.version_id)
    slices = load_version(project.workspace, version).slices
    fold_set = version.fold_set_of(experiment)
    assigned = load_folds(project.workspace, version, fold_set, slices)
    ids, patients, studies = (slices[name].to_numpy(dtype=object) for name in ("slice_id", "patient", "study"))
    if not experiment.leaked and (problem := leak_problem(ids, patients, assigned)):
        raise ChangedDataError(
            f"Experiment {number}: {problem}.", f"The fold file was changed: `ichx audit {number}` shows what differs."
        )
    assigned = subset_folds(slices, assigned, experiment.subset)
    index = pd.Index(ids)

    predicted = np.full((len(ids), len(LABELS)), np.nan)
    of_studies = np.full((len(ids), len(LABELS)), np.nan)
    stored = project.store.predictions(number, role="oof")
    folds = sorted({p.fold for p in stored if only is None or p.fold in only})
    if not folds:
        raise NotReadyError(f"Experiment {number} has no finished fold.", f"Run `ichx run {number}` first.")
    for fold in folds:
        fold_ids, mean = read_fold(project.workspace, stored, fold, views_of(experiment, tta), average)
        recorded = next(p.slices for p in stored if p.fold == fold)
        problems = fold_problems(fold_ids, index, assigned, fold, recorded)
        if problems:
            raise ChangedDataError(
                "\n".join(f"Experiment {number}, fold {fold}: {problem}." for problem in problems),
                f"These predictions cannot be trusted: `ichx audit {number}` checks all of them.",
            )
        predicted[index.get_indexer(pd.Index(fold_ids))] = mean
        if experiment.members:
            learnt = _read_study_logits(project.workspace, stored, fold)
            of_studies[index.get_indexer(pd.Index(fold_ids))] = np.nan if learnt is None else probabilities(learnt)
    have = np.isfinite(predicted).all(axis=1)
    return OofTable(
        slice_ids=ids[have],
        folds=assigned[have],
        labels=slice_truth(slices)[have],
        probabilities=predicted[have],
        left_out=int((np.isin(assigned, folds) & ~have).sum()),
        patients=patients[have],
        studies=studies[have],
        study_probabilities=of_studies[have] if np.isfinite(of_studies[have]).all() and have.any() else None,
        study_labels=study_truth(slices)[have] if has_study_labels(slices) else None,
        parts=slices[PART].to_numpy(object)[have] if mixture_parts(version) else None,
    )


def leak_problem(
    slice_ids: npt.NDArray[np.object_], patients: npt.NDArray[np.object_], folds: npt.NDArray[np.int16]
) -> str | None:
    """Return which patients are in more than one fold, or None if there are none; all arguments are `(N,)`."""
    leaks = find_leaks(slice_ids, patients, folds)
    if not leaks:
        return None
    examples = [f"{leak.patient} (folds {', '.join(map(str, leak.folds))})" for leak in leaks]
    count = format_count(len(pd.unique(patients)), "patient")
    return f"{len(leaks):,} of {count} in more than one fold{format_examples(examples)}"


def fold_problems(
    predicted: npt.NDArray[np.object_],
    slice_ids: "pd.Index[str]",
    folds: npt.NDArray[np.int16],
    fold: int,
    recorded: int,
) -> list[str]:
    """Return why the slices predicted by a fold are not its own, each once; problems have counts and examples.

    Args:
        predicted: Ids of the predicted slices.
        slice_ids: Ids of the dataset's slices, `(N,)`.
        folds: The fold of each of these, `(N,)`. `fold` trained on those of other folds and on those without a fold.
        fold: The fold that predicted.
        recorded: Number of predictions that were recorded, fewer than the fold's slices if some cannot be decoded.
    """
    row = slice_ids.get_indexer(pd.Index(predicted))
    repeated = np.asarray(pd.Series(predicted).duplicated())
    unknown = predicted[(row < 0) & ~repeated]
    trained = predicted[(row >= 0) & (folds[row] != fold) & ~repeated]
    twice = pd.unique(predicted[repeated])
    problems = [
        f"{format_count(len(found), one)} {what}{format_examples(map(str, found), len(found))}"
        for found, one, what in (
            (unknown, "prediction", "of slices that are not in the dataset version"),
            (trained, "slice", "of other folds, which this fold trained on"),
            (twice, "slice", "predicted more than once"),
        )
        if len(found)
    ]
    if not problems and len(predicted) != recorded:
        expected = folds == fold
        expected[row] = False
        absent = slice_ids[expected]
        problems.append(
            f"incomplete, {len(predicted):,} of {recorded:,} recorded predictions; "
            f"no prediction of {format_count(len(absent), 'slice')}{format_examples(map(str, absent), len(absent))}"
        )
    return problems


def read_fold(
    workspace: "Workspace", stored: "list[Prediction]", fold: int, views: Sequence[str], average: Average = "logit"
) -> tuple[npt.NDArray[np.object_], FloatArray]:
    """Return `(slice_ids, probabilities (N, 6))` of a fold, the mean over `views`.

    Args:
        workspace: The workspace of the prediction files.
        stored: An experiment's recorded predictions of one dataset, with some of `fold`.
        fold: The fold.
        views: Names of views, see `views_of`.
        average: What is averaged over views.

    Raises:
        NotReadyError: A view is not predicted.
        ChangedDataError: A file is missing, or views predict different slices.
        CorruptFileError: A file is damaged.
    """
    by_view = {p.view: p for p in stored if p.fold == fold}
    missing = [view for view in views if view not in by_view]
    if missing:
        number = stored[0].experiment
        raise NotReadyError(
            f"Experiment {number}, fold {fold} has no predictions of the view {missing[0]!r}.",
            f"Rerun `ichx run {number}`, which predicts what is missing.",
        )
    read = [read_predictions(workspace.root / by_view[view].path) for view in views]
    return read[0].slice_ids, mean_over_views(read, average)


def _read_study_logits(workspace: "Workspace", stored: "list[Prediction]", fold: int) -> npt.NDArray[np.float32] | None:
    """Return the logits `(N, 6)` of each slice's study that the heads of `fold` predict, if they are stored."""
    path = next(p.path for p in stored if p.fold == fold)
    return read_predictions(workspace.root / path).study_logits


def mean_over_views(views: list[Predictions], average: Average = "logit") -> FloatArray:
    """Return the mean `(N, 6)` over views of the same slices, as probabilities, in float64.

    Raises `ChangedDataError` if the slices differ.
    """
    for view in views[1:]:
        if not np.array_equal(view.slice_ids, views[0].slice_ids):
            raise ChangedDataError("Two views of one fold predict different slices.", "Rerun the experiment's fold.")
    if average == "logit":
        return probabilities(np.mean([view.logits for view in views], axis=0, dtype=np.float64))
    mean: FloatArray = np.mean([probabilities(view.logits) for view in views], axis=0)
    return mean
