"""Scores of an experiment or ensemble on another labelled dataset. Its predictions are stored and computed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.errors import ChangedDataError, NotReadyError, UnsupportedError
from ichx.evaluation.averaging import mean_of
from ichx.evaluation.bootstrap import Bootstrap
from ichx.evaluation.calibration_line import CalibrationLine, calibration_lines
from ichx.evaluation.choices import Average, Pooling, check_pooling
from ichx.evaluation.evaluation_count import record_evaluation, rows_digest
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.scorecard import both_scores
from ichx.evaluation.scored_rows import Truth
from ichx.evaluation.scores import pool_studies
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.subgroup_scores import Predicted
from ichx.evaluation.thresholds import OperatingPoint, operating_points
from ichx.inference.member_predictions import DatasetPrediction, predict_dataset_by_fold
from ichx.inference.overlap import OVERLAP_MARK, OverlapChoice, shared_slices
from ichx.inference.ready_model import ReadyModel
from ichx.inference.trained import Trained
from ichx.labels import LABELS, PSEUDO
from ichx.store import EvaluationDraft

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


@dataclass(frozen=True)
class Evaluation:
    """Scores of an experiment or ensemble on another dataset, by the mean over views and folds."""

    experiment: int
    """The experiment, or the member of the ensemble with the largest weight, whose heat maps are shown."""
    name: str
    dataset: str
    dataset_version: int
    tta: str
    marks: tuple[str, ...]
    folds: dict[int, float]
    """Score of each fold alone."""
    slices: Bootstrap
    studies: Bootstrap
    left_out: int
    """Slices that cannot be decoded."""
    precision: str
    """The precisions of the networks, e.g. `fp32`; `unknown` for predictions stored by 0.1."""
    thresholds: dict[str, dict[str, tuple[OperatingPoint, ...]]]
    """Operating thresholds by unit (`slice`, `study`) and label; none for a label without both classes."""
    calibration: dict[str, CalibrationLine]
    """Calibration of slices by label."""
    average: Average = "logit"
    """What was averaged over views and folds."""
    ensemble: int | None = None
    """The ensemble that was scored; None for an experiment."""
    recalibrated: str | None = None
    """Name of the recalibration that was applied."""
    overlap: int = 0
    """Patients that are also in the experiment's dataset: excluded, or scored with the mark `overlap`."""


@dataclass(frozen=True)
class EvaluatedSlices:
    """The predictions that an `Evaluation` scores, one row per slice that can be decoded."""

    data: LoadedDataset
    trained: Trained
    """The experiment of `Evaluation.experiment`."""
    rows: npt.NDArray[np.int64]
    """Rows of `data.slices`, `(N,)`."""
    labels: FloatArray
    """`(N, 6)`"""
    probabilities: FloatArray
    """`(N, 6)`, the mean over views and folds."""
    study_probabilities: FloatArray | None = None
    """`(N, 6)`: of each slice's study, as a sequence experiment predicts them; None for others."""
    uncalibrated: FloatArray | None = None
    """`(N, 6)`: probabilities before a recalibration; None without one."""

    @property
    def labels_to_pool(self) -> FloatArray:
        """The labels `(N, 6)` whose maximum over a study is the study's label."""
        return self.predicted.labels_to_pool

    @property
    def slices(self) -> pd.DataFrame:
        """The catalog's rows of the slices, `(N,)`."""
        return self.data.slices.iloc[self.rows]

    @property
    def predicted(self) -> Predicted:
        """The same as input of subgroup scores."""
        return Predicted(self.slices, self.labels, self.probabilities, self.study_probabilities)

    @property
    def called(self) -> Predicted:
        """The same before a recalibration, for stored thresholds: they were chosen on such probabilities."""
        p = self.probabilities if self.uncalibrated is None else self.uncalibrated
        return Predicted(self.slices, self.labels, p, self.study_probabilities)


@dataclass(frozen=True)
class _Members:
    """What the members of a model predict for a version."""

    data: LoadedDataset
    predicted: dict[int, DatasetPrediction]
    numbers: npt.NDArray[np.int64]
    """Rows of `data.slices`, `(N,)`: the slices that can be decoded, without excluded ones."""
    left_out: int
    """Slices that cannot be decoded."""
    shared: npt.NDArray[np.bool_]
    """Which slices of `data` are of patients that the model may have been trained on."""

    @property
    def rows(self) -> pd.DataFrame:
        return self.data.slices.iloc[self.numbers]

    @property
    def folds(self) -> dict[int, dict[int, FloatArray]]:
        return {k: one.folds for k, one in self.predicted.items()}


def evaluate_slices(
    project: "Project",
    model: ReadyModel,
    dataset: str,
    *,
    callbacks: "Callbacks",
    pooling: Pooling = "max",
    overlap: OverlapChoice = "refuse",
) -> tuple[Evaluation, EvaluatedSlices]:
    """Return the scores of a model on the newest version of `dataset`, and count the evaluation.

    Args:
        project: The open project.
        model: An experiment or an ensemble.
        dataset: A labelled dataset. What is not predicted yet is predicted.
        callbacks: Receives progress and notes.
        pooling: How slices are pooled to studies: `max` or `noisy_or`.
        overlap: What happens to patients that the experiment's dataset has, too; see `ichx.inference.overlap`.

    Raises:
        NotFoundError: The dataset does not exist.
        NotReadyError: The dataset has no labels.
        ConflictError: The dataset shares patients or slices with the experiment's dataset.
    """
    check_pooling(pooling)
    members = _predict_members(project, model, dataset, callbacks, overlap)
    data, rows, folds = members.data, members.rows, members.folds
    neighbours = SeriesNeighbours.of(rows)
    truth = Truth.of(rows)
    labels = truth.labels
    if not truth.known:
        raise NotReadyError(
            f"No label of {dataset} can be scored: they are unknown for the slices that can be decoded, or known only "
            "where they are positive.",
            f"`ichx data show {dataset}` lists what is known.",
        )
    uncalibrated = model.mean(folds, neighbours)
    mean = model.recalibrated(uncalibrated)
    study_of = rows["study"].to_numpy(object)
    learnt = _learnt(model, members.predicted)
    of_studies = (truth.to_pool, mean, study_of, pooling, learnt)
    slices, studies = both_scores(labels, rows["patient"].to_numpy(object), of_studies)
    pooled = pool_studies(*of_studies)
    of_folds = {fold: model.recalibrated(model.of_fold(folds, neighbours, fold)) for fold in model.folds}
    evaluation = Evaluation(
        experiment=model.shown.experiment.number,
        name=model.name,
        dataset=dataset,
        dataset_version=data.version.number,
        tta=model.options.tta,
        marks=(*model.marks, *([OVERLAP_MARK] if overlap == "mark" and members.shared.any() else [])),
        folds={fold: truth.scored(p).score for fold, p in of_folds.items()},
        slices=slices,
        studies=studies,
        left_out=members.left_out,
        precision=", ".join(sorted(frozenset().union(*(one.precisions for one in members.predicted.values())))),
        thresholds={
            "slice": _thresholds(labels, mean),
            "study": _thresholds(pooled.labels, pooled.probabilities),
        },
        calibration=calibration_lines(labels, mean, rows["patient"].to_numpy(object)),
        average=model.options.average,
        ensemble=model.ensemble,
        recalibrated=None if model.recalibration is None else model.recalibration.name,
        overlap=int(data.slices["patient"][members.shared].nunique()),
    )
    record_evaluation(
        project,
        EvaluationDraft(
            "evaluate",
            rows_digest(rows["slice_id"], truth.to_pool),
            rows_digest(rows["slice_id"], mean),
            (slices if truth.unit == "slice" else studies).scores.log_loss,
            dataset=dataset,
            version=data.version.number,
            experiment=evaluation.experiment if model.ensemble is None else None,
            ensemble=model.ensemble,
        ),
    )
    raw = None if model.recalibration is None else uncalibrated
    return evaluation, EvaluatedSlices(data, model.shown, members.numbers, labels, mean, learnt, raw)


def predict_labelled(project: "Project", model: ReadyModel, dataset: str, callbacks: "Callbacks") -> EvaluatedSlices:
    """Return what a model predicts for a labelled dataset, without a recalibration and without scores.

    Raises like `evaluate_slices`.
    """
    members = _predict_members(project, model, dataset, callbacks)
    rows = members.rows
    mean, learnt = model.mean(members.folds, SeriesNeighbours.of(rows)), _learnt(model, members.predicted)
    labels = Truth.of(rows).labels
    return EvaluatedSlices(members.data, model.shown, members.numbers, labels, mean, learnt)


def _predict_members(
    project: "Project", model: ReadyModel, dataset: str, callbacks: "Callbacks", overlap: OverlapChoice = "refuse"
) -> _Members:
    """Predict a labelled dataset with each member, as far as that is not stored."""
    version = project.store.version(dataset)
    if version.label_digest is None:
        subject = model.shown.experiment.number if model.ensemble is None else f"--ensemble {model.ensemble}"
        raise NotReadyError(
            f"{dataset} has no labels.", f"`ichx predict {subject} PATH` predicts files without labels."
        )
    if PSEUDO in version.summary:
        problem = f"{dataset} has pseudo-labels, which are never scored."
        raise UnsupportedError(problem, "Choose a dataset with labels of readers.")
    data = load_version(project.workspace, version)
    shared = shared_slices(project, model.shown, data, overlap)
    predicted = {
        k: predict_dataset_by_fold(project, trained, data, model.options, callbacks)
        for k, trained in model.members.items()
    }
    ids = next(iter(predicted.values())).slice_ids
    for k, other in predicted.items():
        if not np.array_equal(ids, other.slice_ids):
            raise ChangedDataError(
                f"The stored predictions of experiment {model.members[k].experiment.number} are of other slices of "
                f"{dataset} than those of experiment {model.shown.experiment.number}.",
                f"Remove the evaluation files of {dataset} from "
                f"{project.workspace.experiment_files(model.members[k].experiment.number).folder}.",
            )
    decodable = len(ids)
    if overlap == "exclude" and shared.any():
        unseen = np.flatnonzero(~np.isin(ids, data.slices["slice_id"].to_numpy(object)[shared]))
        predicted, ids = {k: one.take(unseen) for k, one in predicted.items()}, ids[unseen]
    numbers = pd.Index(data.slices["slice_id"]).get_indexer(pd.Index(ids))
    return _Members(data, predicted, numbers, len(data.slices) - decodable, shared)


def _learnt(model: ReadyModel, predicted: Mapping[int, DatasetPrediction]) -> FloatArray | None:
    """Return the probabilities `(N, 6)` of each slice's study by a single sequence experiment; None for others."""
    if model.ensemble is not None:
        return None
    (only,) = predicted.values()
    return mean_of(list(only.studies.values()), model.options.average) if only.studies else None


def _thresholds(labels: FloatArray, predicted: FloatArray) -> dict[str, tuple[OperatingPoint, ...]]:
    """Return the operating thresholds of each label; both arguments are `(N, 6)`."""
    return {label: operating_points(labels[:, k], predicted[:, k]) for k, label in enumerate(LABELS)}
