"""Scores of an experiment on another labelled dataset. Its predictions are stored and computed once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import hash_ids
from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.identity import of_known_patients
from ichx.errors import ConflictError, NotReadyError
from ichx.evaluation.averaging import mean_of
from ichx.evaluation.bootstrap import Bootstrap
from ichx.evaluation.choices import Average, Pooling, check_average, check_pooling, check_tta
from ichx.evaluation.metric import FloatArray, score
from ichx.evaluation.scorecard import both_scores
from ichx.evaluation.scores import pool_studies
from ichx.evaluation.thresholds import OperatingPoint, operating_points
from ichx.inference.member_predictions import predict_dataset_by_fold
from ichx.inference.trained import InferenceOptions, Trained, find_trained
from ichx.labels import LABELS
from ichx.store import marks
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Evaluation:
    """Scores of an experiment on another dataset, by the mean over views and folds."""

    experiment: int
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
    average: Average = "logit"
    """What was averaged over views and folds."""


@dataclass(frozen=True)
class EvaluatedSlices:
    """The predictions that an `Evaluation` scores, one row per slice that can be decoded."""

    data: LoadedDataset
    trained: Trained
    rows: npt.NDArray[np.int64]
    """Rows of `data.slices`, `(N,)`."""
    labels: FloatArray
    """`(N, 6)`"""
    probabilities: FloatArray
    """`(N, 6)`, the mean over views and folds."""

    @property
    def slices(self) -> pd.DataFrame:
        """The catalog's rows of the slices, `(N,)`."""
        return self.data.slices.iloc[self.rows]


def evaluate_slices(
    project: "Project",
    number: int,
    dataset: str,
    options: InferenceOptions | None = None,
    *,
    callbacks: "Callbacks",
    pooling: Pooling = "max",
) -> tuple[Evaluation, EvaluatedSlices]:
    """Return the scores of experiment `number` on the newest version of `dataset`; predict what is missing.

    Args:
        project: The open project.
        number: The experiment.
        dataset: A labelled dataset without patients of the experiment's dataset.
        options: Test-time augmentation, folds, device, loader.
        callbacks: Receives progress and notes.
        pooling: How slices are pooled to studies: `max` or `noisy_or`.

    Raises:
        NotFoundError: The experiment or the dataset does not exist.
        NotReadyError: The dataset has no labels, or no fold is finished.
        ConflictError: The dataset shares patients or slices with the experiment's dataset.
    """
    options = options or InferenceOptions()
    tta, folds = options.tta, options.folds
    check_tta(tta)
    average = check_average(options.average)
    check_pooling(pooling)
    trained = find_trained(project, number, folds)
    version = project.store.version(dataset)
    if version.label_digest is None:
        raise NotReadyError(f"{dataset} has no labels.", "Predict it without scores: `ichx predict`.")
    data = load_version(project.workspace, version)
    _refuse_shared(project, trained, data)
    if trained.partial is not None and folds is None:
        callbacks.note(f"experiment {number} predicts with {trained.partial}")
    predicted = predict_dataset_by_fold(project, trained, data, options, callbacks)
    numbers = pd.Index(data.slices["slice_id"]).get_indexer(pd.Index(predicted.slice_ids))
    rows = data.slices.iloc[numbers]
    labels = rows[list(LABELS)].to_numpy(np.float64)
    mean = mean_of(list(predicted.folds.values()), average)
    study_of = rows["study"].to_numpy(object)
    slices, studies = both_scores(labels, mean, rows["patient"].to_numpy(object), study_of, pooling)
    pooled = pool_studies(labels, mean, study_of, pooling)
    evaluation = Evaluation(
        experiment=number,
        name=trained.experiment.name,
        dataset=dataset,
        dataset_version=version.number,
        tta=tta,
        marks=marks(trained.experiment),
        folds={fold: score(labels, p) for fold, p in predicted.folds.items()},
        slices=slices,
        studies=studies,
        left_out=len(data.slices) - len(rows),
        precision=", ".join(sorted(predicted.precisions)),
        thresholds={
            "slice": _thresholds(labels, mean),
            "study": _thresholds(pooled.labels, pooled.probabilities),
        },
        average=average,
    )
    return evaluation, EvaluatedSlices(data, trained, numbers, labels, mean)


def _thresholds(labels: FloatArray, predicted: FloatArray) -> dict[str, tuple[OperatingPoint, ...]]:
    """Return the operating thresholds of each label; both arguments are `(N, 6)`."""
    return {label: operating_points(labels[:, k], predicted[:, k]) for k, label in enumerate(LABELS)}


def _refuse_shared(project: "Project", trained: Trained, data: LoadedDataset) -> None:
    """Raise `ConflictError` if `data` contains patients or slices of the experiment's dataset."""
    experiment = trained.experiment
    if data.version.id == experiment.version_id:
        raise ConflictError(
            f"{data.version.dataset} is the dataset of experiment {experiment.number}. Scores on its "
            f"{format_count(data.version.patients, 'patient')} are not scores on unseen patients.",
            f"Choose another dataset. `ichx scores {experiment.number}` shows the scores on {data.version.dataset}.",
        )
    own = load_version(project.workspace, project.store.version_by_id(experiment.version_id))
    ids, own_ids = (_hashed_ids(project.workspace, of) for of in (data, own))
    by_study = "study" in (of.version.summary.get("group_by") for of in (data, own))
    known_patient = of_known_patients(ids, own_ids, by_study=by_study)
    known_slice = data.slices["slice_id"].isin(own.slices["slice_id"]).to_numpy()
    shared = known_patient | known_slice
    if not shared.any():
        return
    names = np.unique(ids["patient"].to_numpy(object)[shared])
    raise ConflictError(
        f"{data.version.dataset} and {own.version.dataset}, the dataset of experiment {experiment.number}, have "
        f"{format_count(len(names), 'patient')} in common, with {format_count(int(shared.sum()), 'slice')}"
        f"{format_examples(map(str, names), len(names))}. Scores on them are not scores on unseen patients.",
        f"Add a dataset without them. `ichx scores {experiment.number}` shows the scores on {own.version.dataset}.",
    )


def _hashed_ids(workspace: "Workspace", data: LoadedDataset) -> pd.DataFrame:
    """Return the ids of patient and study of each slice as keyed hashes, also of a dataset that stores ids."""
    ids = data.slices[["patient", "patient_id", "study"]]
    if not data.version.summary.get("keep_ids"):
        return ids
    key = workspace.privacy_key()
    return pd.DataFrame({name: hash_ids(ids[name], key).where(ids[name] != "", "") for name in ids})
