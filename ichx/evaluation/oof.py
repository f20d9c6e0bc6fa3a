"""Out-of-fold tables: each training slice as predicted by the one fold that did not train on its patient.

Where the folds split patients, that fold did train on others of the patient's slices: the experiment is marked.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.folds import Leak, find_leaks
from ichx.datasets.patient_subset import subset_folds
from ichx.errors import IchxError, raise_problems
from ichx.evaluation.metric import FloatArray, probabilities, score
from ichx.evaluation.predictions import Predictions, read_predictions
from ichx.labels import LABELS
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment, Prediction
    from ichx.workspace import Workspace

TTA_VIEWS = {"none": ("identity",), "hflip": ("identity", "hflip")}
"""The views whose probabilities are averaged, by the name of the test-time augmentation."""


@dataclass(frozen=True)
class OofTable:
    """The OOF predictions of an experiment, in the dataset's row order.

    `slice_ids` (N,), `folds` (N,), `labels` and `probabilities` (N, 6) float64; `left_out` counts slices of these folds
    without a prediction, whose pixels could not be decoded; `patients` and `studies` (N,) are the catalog's ids.
    """

    slice_ids: npt.NDArray[np.object_]
    folds: npt.NDArray[np.int16]
    labels: FloatArray
    probabilities: FloatArray
    left_out: int
    patients: npt.NDArray[np.object_]
    studies: npt.NDArray[np.object_]

    @property
    def score(self) -> float:
        """The pooled weighted log loss over all slices."""
        return score(self.labels, self.probabilities)

    @property
    def fold_scores(self) -> dict[int, float]:
        """The score of each fold."""
        return {
            int(k): score(self.labels[self.folds == k], self.probabilities[self.folds == k])
            for k in np.unique(self.folds)
        }

    @property
    def spread(self) -> float | None:
        """The standard deviation of the folds' scores; None for a single fold."""
        scores = list(self.fold_scores.values())
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def read_oof(
    project: "Project",
    experiment: "Experiment",
    tta: str = "none",
    only: Collection[int] | None = None,
) -> OofTable:
    """Return the OOF table of the experiment's finished folds (of `only` these), averaged over the views of `tta`.

    Raises `IchxError` when there is none; when predictions that were recorded are missing, a slice is predicted twice,
    or by a fold that trained on its patient; each with a count and examples.
    """
    version = project.store.version_by_id(experiment.version_id)
    dataset = load_version(project.workspace, version)
    fold_set = next(f for f in version.folds if f.id == experiment.fold_set_id)
    assigned = load_folds(project.workspace, version, fold_set, dataset.slices)
    ids = dataset.slices["slice_id"].to_numpy(dtype=object)
    patients = dataset.slices["patient"].to_numpy(dtype=object)
    if not experiment.leaked:
        _refuse_leaks(experiment, find_leaks(ids, patients, assigned), len(pd.unique(patients)))
    if experiment.tuned is not None:
        assigned = subset_folds(dataset.slices, assigned, experiment.tuned.subset)
    index = pd.Index(ids)

    predicted = np.full((len(ids), len(LABELS)), np.nan)
    stored = project.store.predictions(experiment.number, role="oof")
    folds = sorted({p.fold for p in stored if only is None or p.fold in only})
    for fold in folds:
        views = [read_view(project.workspace, stored, fold, view, experiment.number) for view in TTA_VIEWS[tta]]
        recorded = next(p.slices for p in stored if p.fold == fold)
        problems = fold_problems(views[0].slice_ids, index, assigned, fold, recorded)
        raise_problems(
            [f"experiment {experiment.number}, fold {fold}: {problem}" for problem in problems],
            f"these predictions cannot be trusted; `ichx audit {experiment.number}` checks all of them",
        )
        predicted[index.get_indexer(pd.Index(views[0].slice_ids))] = mean_over_views(views)
    if not folds:
        raise IchxError(
            f"experiment {experiment.number} has no finished fold", f"run it first: `ichx run {experiment.number}`"
        )
    have = np.isfinite(predicted).all(axis=1)
    labels = dataset.slices[list(LABELS)].to_numpy(dtype=np.float64)
    return OofTable(
        slice_ids=ids[have],
        folds=assigned[have],
        labels=labels[have],
        probabilities=predicted[have],
        left_out=int((np.isin(assigned, folds) & ~have).sum()),
        patients=patients[have],
        studies=dataset.slices["study"].to_numpy(dtype=object)[have],
    )


def _refuse_leaks(experiment: "Experiment", leaks: list[Leak], patients: int) -> None:
    """Raise `IchxError` where folds that are not marked as leaky split patients."""
    if leaks:
        such = [f"{leak.patient} (folds {', '.join(map(str, leak.folds))})" for leak in leaks]
        raise IchxError(
            f"experiment {experiment.number}: {len(leaks):,} of {format_count(patients, 'patient')} in more than one "
            f"fold, so that folds trained on patients that they predict{format_examples(such)}",
            f"the fold file was changed; `ichx audit {experiment.number}` checks all that belongs to the score",
        )


def fold_problems(
    predicted: npt.NDArray[np.object_],
    slice_ids: "pd.Index[str]",
    folds: npt.NDArray[np.int16],
    fold: int,
    recorded: int,
) -> list[str]:
    """Return what is wrong with a fold that predicted the slices `predicted`, each with a count and examples.

    It must be `recorded` slices, each once, each one of the dataset's `slice_ids` (N,) that `folds` (N,) gives to
    `fold`: it trained on all others. Fewer than the fold's slices are no problem where as many were recorded, as
    some cannot be decoded.
    """
    row = slice_ids.get_indexer(pd.Index(predicted))
    later = np.asarray(pd.Series(predicted).duplicated())
    unknown = predicted[(row < 0) & ~later]
    trained = predicted[(row >= 0) & (folds[row] != fold) & ~later]
    twice = pd.unique(predicted[later])
    problems = [
        f"{format_count(len(found), one)} {what}{format_examples(map(str, found), len(found))}"
        for found, one, what in (
            (unknown, "prediction", "of slices that are not in the dataset version"),
            (trained, "slice", "of other folds, which this one trained on"),
            (twice, "slice", "predicted more than once"),
        )
        if len(found)
    ]
    if not problems and len(predicted) != recorded:
        wanted = folds == fold
        wanted[row] = False
        absent = slice_ids[wanted]
        problems.append(
            f"incomplete: {len(predicted):,} of the {recorded:,} predictions that were recorded; "
            f"no prediction of {format_count(len(absent), 'slice')}{format_examples(map(str, absent), len(absent))}"
        )
    return problems


def read_view(workspace: "Workspace", stored: "list[Prediction]", fold: int, view: str, experiment: int) -> Predictions:
    """Return the one stored prediction of `fold` and `view`; raises `IchxError` where there is none."""
    found = [p for p in stored if p.fold == fold and p.view == view]
    if not found:
        raise IchxError(
            f"experiment {experiment}, fold {fold} has no predictions of the view {view!r}",
            f"run `ichx run {experiment}`, which makes what is missing",
        )
    return read_predictions(workspace.root / found[0].path)


def mean_over_views(views: list[Predictions]) -> FloatArray:
    """Return the mean probability (N, 6) over views of the same slices in the same order."""
    for view in views[1:]:
        if not np.array_equal(view.slice_ids, views[0].slice_ids):
            raise IchxError("two views of one fold predict different slices", "run the experiment's fold again")
    mean: FloatArray = np.mean([probabilities(view.logits) for view in views], axis=0)
    return mean
