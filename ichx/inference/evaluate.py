"""Scores of an experiment on another labelled dataset. Its predictions are stored and computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import hash_ids
from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.identity import of_known_patients
from ichx.errors import ChangedDataError, ConflictError, CorruptFileError, NotReadyError
from ichx.evaluation.bootstrap import Bootstrap
from ichx.evaluation.choices import Pooling, check_pooling, check_tta, views_of
from ichx.evaluation.metric import FloatArray, probabilities, score
from ichx.evaluation.oof import mean_over_views
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.evaluation.scorecard import both_scores
from ichx.evaluation.scores import pool_studies
from ichx.evaluation.thresholds import OperatingPoint, operating_points
from ichx.experiments.prepare import open_cache
from ichx.inference.trained import InferenceOptions, Trained, find_trained, open_networks
from ichx.labels import LABELS
from ichx.store import PredictionDraft, marks
from ichx.text import format_count, format_examples
from ichx.training.prediction import PredictionTask
from ichx.training.slice_feed import SliceFeed

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks
    from ichx.workspace import Workspace

ROLE = "evaluation"
"""Role of such predictions in the store."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of an experiment on another dataset, by the mean over views, then over folds."""

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
    """`(N, 6)`, the mean over views, then over folds."""

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
    check_pooling(pooling)
    trained = find_trained(project, number, folds)
    views = views_of(trained.experiment, tta)
    version = project.store.version(dataset)
    if version.label_digest is None:
        raise NotReadyError(f"{dataset} has no labels.", f"`ichx predict {number} PATH` predicts files without labels.")
    data = load_version(project.workspace, version)
    _refuse_shared(project, trained, data)
    if trained.partial is not None and folds is None:
        callbacks.note(f"experiment {number} predicts with {trained.partial}")
    _predict_missing(project, trained, data, options, callbacks)
    predicted = _read(project, trained, data, views)
    ids = next(iter(predicted.values())).slice_ids
    numbers = pd.Index(data.slices["slice_id"]).get_indexer(pd.Index(ids))
    rows = data.slices.iloc[numbers]
    labels = rows[list(LABELS)].to_numpy(np.float64)
    mean: FloatArray = np.mean([found.probabilities for found in predicted.values()], axis=0)
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
        folds={fold: score(labels, found.probabilities) for fold, found in predicted.items()},
        slices=slices,
        studies=studies,
        left_out=len(data.slices) - len(rows),
        precision=", ".join(sorted(set().union(*(found.precisions for found in predicted.values())))),
        thresholds={
            "slice": _thresholds(labels, mean),
            "study": _thresholds(pooled.labels, pooled.probabilities),
        },
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


def _predict_missing(
    project: "Project",
    trained: Trained,
    data: LoadedDataset,
    options: InferenceOptions,
    callbacks: "Callbacks",
) -> None:
    """Predict `data` with the folds and views that are missing; record the predictions of each finished fold."""
    views = views_of(trained.experiment, options.tta)
    version, number = data.version, trained.experiment.number
    existing = {
        (p.fold, p.view)
        for p in project.store.predictions(number, role=ROLE, version_id=version.id)
        if _reusable(project.workspace.root / p.path, options)
    }
    todo = {fold: [view for view in views if (fold, view) not in existing] for fold in trained.weights}
    if not any(todo.values()):
        return
    cache = open_cache(project.workspace, data, trained.recipe, callbacks)
    rows = np.flatnonzero(cache.valid)
    if not len(rows):
        raise CorruptFileError(
            f"No slice of {version.dataset} can be decoded.", f"See `ichx data check {version.dataset}`."
        )
    ids = data.slices["slice_id"].to_numpy(object)[rows]
    labels = data.slices[list(LABELS)].to_numpy(np.float64)[rows]
    files = project.workspace.experiment_files(number)
    with open_networks(trained, options, callbacks.note) as network:
        feed = SliceFeed(cache, data.slices, trained.recipe, network.workers)
        for fold, missing in todo.items():
            if not missing:
                continue
            network.load(fold)
            drafts = []
            for view in missing:
                phase = f"fold {fold} predicts {version.dataset}, {view}"

                def report(done: int, phase: str = phase) -> None:
                    callbacks.phase(phase, done, len(rows))

                logits = network.logits(feed, rows, PredictionTask(view, report=report))
                path = files.fold(fold).predictions(ROLE, view, version.dataset, version.number)
                drafts.append(
                    PredictionDraft(
                        experiment=number,
                        fold=fold,
                        version_id=version.id,
                        role=ROLE,
                        view=view,
                        path=path.relative_to(project.workspace.root).as_posix(),
                        slices=len(rows),
                        digest=write_predictions(path, Predictions(ids, logits, network.hardware.precision)),
                        score=score(labels, probabilities(logits)),
                    )
                )
            project.store.add_predictions(drafts)


def _reusable(path: Path, options: InferenceOptions) -> bool:
    """Return whether the stored predictions in `path` exist and have the requested precision."""
    return path.is_file() and (options.precision == "auto" or options.precision == read_predictions(path).precision)


@dataclass(frozen=True)
class _FoldMean:
    """The mean of the views of one fold."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`"""
    probabilities: FloatArray
    """`(N, 6)`"""
    precisions: frozenset[str]


def _read(project: "Project", trained: Trained, data: LoadedDataset, views: Sequence[str]) -> dict[int, _FoldMean]:
    """Return the mean over `views` of each fold, all with the same slices in the same order."""
    number, version = trained.experiment.number, data.version
    stored = {(p.fold, p.view): p for p in project.store.predictions(number, role=ROLE, version_id=version.id)}
    found: dict[int, _FoldMean] = {}
    for fold in trained.weights:
        read = [read_predictions(project.workspace.root / stored[fold, view].path) for view in views]
        precisions = frozenset(one.precision or "unknown" for one in read)
        found[fold] = _FoldMean(read[0].slice_ids, mean_over_views(read), precisions)
    ids = next(iter(found.values())).slice_ids
    same = all(np.array_equal(ids, other.slice_ids) for other in found.values())
    if not same or not data.slices["slice_id"].isin(ids).sum() == len(ids):
        raise ChangedDataError(
            f"The stored predictions of experiment {number} are of different slices of {version.dataset}.",
            f"Remove the evaluation files of {version.dataset} from "
            f"{project.workspace.experiment_files(number).folder}.",
        )
    return found
