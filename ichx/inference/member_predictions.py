"""Predictions of one experiment, per fold: of files that belong to no dataset, and of another dataset.

An ensemble and a single experiment both predict through these two functions. Each returns the mean over views of each
fold. A fold is predicted by its own networks only.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import ensure_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.series import neighbour_rows, series_codes
from ichx.errors import ChangedDataError, CorruptFileError, UnsupportedError
from ichx.evaluation.choices import Average, views_of
from ichx.evaluation.feature_files import FeatureWriter, read_features
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.oof import mean_over_views
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.evaluation.scored_rows import Truth
from ichx.experiments.member_features import TableOptions
from ichx.experiments.prepare import open_cache
from ichx.experiments.prepared_series import prepare_series, sequence_data
from ichx.inference.prediction_parts import predict_in_parts, remove_parts
from ichx.inference.series_networks import open_heads
from ichx.inference.trained import FoldNetworks, InferenceOptions, Trained, open_networks
from ichx.labels import LABELS
from ichx.store import PredictionDraft
from ichx.training.feed import Rows
from ichx.training.prediction import PredictionTask
from ichx.training.slice_feed import SliceFeed

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

CHUNK: Final = 16_384
"""Slices that are cached at once; at 378 px they take 2 GB of disk space."""

ROLE: Final = "evaluation"
"""Role of predictions of another dataset in the store."""

_PREDICT: Final = "Delete it, and rerun `ichx evaluate`, which predicts what is missing."


@dataclass(frozen=True)
class FileSlices:
    """The usable slices of files that belong to no dataset."""

    source: Path
    slices: pd.DataFrame
    """Rows of the catalog, `(N,)`."""
    folder: Path
    """Temporary folder for the pixels."""
    members: int = 1
    """How many experiments predict these slices, one after the other."""


@dataclass(frozen=True)
class FilePrediction:
    """Predictions of files by one experiment."""

    folds: dict[int, FloatArray]
    """Probabilities of each fold `(N, 6)`, the mean over views; NaN where decoding fails."""
    undecodable: dict[int, str]
    """Reasons by row."""
    precision: str
    """The precision of the networks, e.g. `fp32`."""
    studies: dict[int, FloatArray] = field(default_factory=dict)
    """Probabilities of each slice's study by fold `(N, 6)`, of a sequence experiment; else empty."""


@dataclass(frozen=True)
class DatasetPrediction:
    """Predictions of a dataset by one experiment."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`: the slices that can be decoded."""
    folds: dict[int, FloatArray]
    """Probabilities of each fold `(N, 6)`, the mean over views."""
    precisions: frozenset[str]
    """Those of the networks; `unknown` for predictions stored by 0.1."""
    studies: dict[int, FloatArray] = field(default_factory=dict)
    """Probabilities of each slice's study by fold `(N, 6)`, of a sequence experiment; else empty."""

    def take(self, rows: npt.NDArray[np.int64]) -> "DatasetPrediction":
        """Return the predictions of some rows."""
        folds, studies = ({k: values[rows] for k, values in of.items()} for of in (self.folds, self.studies))
        return replace(self, slice_ids=self.slice_ids[rows], folds=folds, studies=studies)


def predict_files_by_fold(
    trained: Trained,
    files: FileSlices,
    options: InferenceOptions,
    callbacks: "Callbacks",
    features: Path | None = None,
) -> FilePrediction:
    """Predict `files` with each fold of `trained`; a sequence experiment reads what its members predict.

    Args:
        trained: The experiment and its folds.
        files: The slices.
        options: Views, average, device, loader.
        callbacks: Receives progress and notes.
        features: Pooled features are written next to this file, one file per fold and view; None: not at all.
    """
    if trained.members:
        return _predict_series_of_files(trained, files, options, callbacks, features)
    views = views_of(trained.experiment, options.tta)
    with ExitStack() as stack:
        network = stack.enter_context(open_networks(trained, options, callbacks.note))
        writers = {
            (fold, view): stack.enter_context(FeatureWriter(_features_path(features, fold, view)))
            for fold in trained.weights
            for view in views
            if features is not None
        }
        return _FilePass(network, files, views, options.average, writers, callbacks).run()


def _predict_series_of_files(
    trained: Trained,
    files: FileSlices,
    options: InferenceOptions,
    callbacks: "Callbacks",
    save_features: Path | None,
) -> FilePrediction:
    """Predict `files` with the members of a sequence experiment, then with its heads, fold by fold."""
    if save_features is not None:
        raise UnsupportedError(
            f"Experiment {trained.experiment.number} reads features and has none itself.", "Leave out --save features."
        )
    assert trained.recipe.sequence is not None
    kinds, total = trained.recipe.sequence.inputs, len(files.slices)
    all_views = replace(options, tta="all", average="logit")
    shared = replace(files, members=files.members + len(trained.members))
    paths = [files.folder / f"features-{trained.experiment.number}-{at}.parquet" for at in range(len(trained.members))]
    of_members = [
        predict_files_by_fold(member, shared, all_views, callbacks, path if "features" in kinds else None)
        for member, path in zip(trained.members, paths, strict=True)
    ]
    undecodable: dict[int, str] = {}
    for one in of_members:
        undecodable |= one.undecodable
    usable = np.ones(total, bool)
    usable[list(undecodable)] = False
    folds = {fold: np.full((total, len(LABELS)), np.nan) for fold in trained.weights}
    studies = {fold: np.full((total, len(LABELS)), np.nan) for fold in trained.weights}
    with open_heads(trained, options, callbacks.note) as heads:
        for fold in folds if usable.any() else ():
            given = np.stack([logits(one.folds[fold]) for one in of_members], axis=1).astype(np.float32)
            features = []
            for one, path in zip(of_members, paths, strict=True):
                if "features" in kinds:
                    values = read_features(_features_path(path, fold, "identity")).values
                    features.append(np.zeros((total, values.shape[1]), np.float16))
                    features[-1][np.setdiff1d(np.arange(total), list(one.undecodable))] = values
            data = sequence_data(files.slices, usable, features, given if "logits" in kinds else None)
            found = heads.predict(fold, data)
            folds[fold][found.rows] = probabilities(found.logits)
            studies[fold][found.rows] = probabilities(found.study_logits)
    return FilePrediction(folds, undecodable, heads.hardware.precision, studies)


def split_at_series(slices: pd.DataFrame, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive rows of `slices`: complete series, about `size` rows at a time."""
    position = pd.Series(np.arange(len(slices)))
    last = position.groupby(series_codes(slices)).transform("max").cummax().to_numpy()
    ends = np.flatnonzero(last == position.to_numpy()) + 1
    start = 0
    while start < len(slices):
        within = ends[(ends > start) & (ends <= start + size)]
        stop = int(within[-1] if len(within) else ends[ends > start][0])
        yield start, stop
        start = stop


@dataclass(frozen=True)
class _FilePass:
    """One prediction of files by one experiment, and who receives features and progress."""

    networks: FoldNetworks
    files: FileSlices
    views: Sequence[str]
    average: Average
    writers: dict[tuple[int, str], FeatureWriter]
    callbacks: "Callbacks"

    def run(self) -> FilePrediction:
        recipe, slices = self.networks.trained.recipe, self.files.slices
        total = len(slices)
        folds = {fold: np.full((total, len(LABELS)), np.nan) for fold in self.networks.trained.weights}
        reasons: dict[int, str] = {}
        parts = list(split_at_series(slices, CHUNK))
        for start, stop in parts:
            part = slices.iloc[start:stop].reset_index(drop=True)
            part = part.assign(**neighbour_rows(part))

            def caching(done: int, of: int, start: int = start, stop: int = stop) -> None:
                self.callbacks.phase("decoding", start + done * (stop - start) // max(of, 1), total)

            spec = recipe_spec(recipe)
            cache = ensure_cache(self.files.folder, "files", self.files.source, part, spec, progress=caching)
            reasons |= {start + row: reason for row, reason in cache.defects.items()}
            rows = np.flatnonzero(cache.valid)
            feed = SliceFeed(cache, part, recipe, self.networks.workers)
            for fold, predicted in self._predict(feed, rows, start, total):
                folds[fold][start + rows] = predicted
            if len(parts) > 1 or self.files.members == 1:  # the next member may read the only part again
                shutil.rmtree(cache.folder, ignore_errors=True)
        return FilePrediction(folds, reasons, self.networks.hardware.precision)

    def _predict(self, feed: SliceFeed, rows: Rows, before: int, total: int) -> Iterator[tuple[int, FloatArray]]:
        """Yield each fold and its probabilities (N, 6) of `rows`; `before` rows of `total` are done."""
        folds = self.networks.trained.weights
        ids = np.empty(len(rows), object)
        for index, fold in enumerate(folds):
            self.networks.load(fold)

            def report(done: int, index: int = index) -> None:
                self.callbacks.phase("predicting", before + (index * len(rows) + done) // len(folds), total)

            tasks = [
                PredictionTask(view, features=self.writers.get((fold, view)), report=report) for view in self.views
            ]
            of_views = [Predictions(ids, logits) for logits in self.networks.logits_of_views(feed, rows, tasks)]
            yield fold, mean_over_views(of_views, self.average)


def _features_path(next_to: Path, fold: int, view: str) -> Path:
    return next_to.with_name(f"{next_to.stem}-fold-{fold}-{view}-features.parquet")


def predict_dataset_by_fold(
    project: "Project", trained: Trained, data: LoadedDataset, options: InferenceOptions, callbacks: "Callbacks"
) -> DatasetPrediction:
    """Return the predictions of `data` by each fold of `trained`. Predict and record what is not stored yet.

    Raises:
        CorruptFileError: No slice can be decoded.
        ChangedDataError: Stored predictions are of other slices.
    """
    if trained.members:
        _predict_missing_series(project, trained, data, options, callbacks)
    else:
        _predict_missing(project, trained, data, options, callbacks)
    number, version, views = trained.experiment.number, data.version, views_of(trained.experiment, options.tta)
    stored = {(p.fold, p.view): p for p in project.store.predictions(number, role=ROLE, version_id=version.id)}
    ids: list[npt.NDArray[np.object_]] = []
    folds: dict[int, FloatArray] = {}
    precisions: set[str] = set()
    studies: dict[int, FloatArray] = {}
    for fold in trained.weights:
        read = [read_predictions(project.workspace.root / stored[fold, view].path, _PREDICT) for view in views]
        ids.append(read[0].slice_ids)
        folds[fold] = mean_over_views(read, options.average)
        precisions |= {one.precision or "unknown" for one in read}
        if read[0].study_logits is not None:
            studies[fold] = probabilities(read[0].study_logits)
    same = all(np.array_equal(ids[0], other) for other in ids)
    if not same or not data.slices["slice_id"].isin(ids[0]).sum() == len(ids[0]):
        raise ChangedDataError(
            f"The stored predictions of experiment {number} are of different slices of {version.dataset}.",
            f"Remove the evaluation files of {version.dataset} from "
            f"{project.workspace.experiment_files(number).folder}.",
        )
    return DatasetPrediction(ids[0], folds, frozenset(precisions), studies if len(studies) == len(folds) else {})


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
    truth = Truth.of(data.slices.iloc[rows])
    files = project.workspace.experiment_files(number)
    with open_networks(trained, options, callbacks.note) as network:
        feed = SliceFeed(cache, data.slices, trained.recipe, network.workers)
        for fold, missing in todo.items():
            if not missing:
                continue
            network.load(fold)
            drafts = []
            phase = f"fold {fold} predicts {version.dataset}"

            def report(done: int, phase: str = phase) -> None:
                callbacks.phase(phase, done, len(rows))

            paths = {
                view: files.fold(fold).predictions(ROLE, view, version.dataset, version.number) for view in missing
            }
            for view, logits in predict_in_parts(network, fold, feed, rows, paths, report).items():
                path = paths[view]
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
                        score=truth.scored(probabilities(logits)).score if truth.known else None,
                    )
                )
            project.store.add_predictions(drafts)
            for path in paths.values():
                remove_parts(path)


def _predict_missing_series(
    project: "Project", trained: Trained, data: LoadedDataset, options: InferenceOptions, callbacks: "Callbacks"
) -> None:
    """Predict `data` with the folds of a sequence experiment that are missing, after its members; record that."""
    number, version = trained.experiment.number, data.version
    existing = {
        p.fold
        for p in project.store.predictions(number, role=ROLE, version_id=version.id)
        if _reusable(project.workspace.root / p.path, options)
    }
    todo = [fold for fold in trained.weights if fold not in existing]
    if not todo:
        return
    prepared = prepare_series(project, trained.experiment, callbacks, TableOptions(options.device, options.workers))
    prepared.check(todo, version.id)
    for member in trained.members:
        predict_dataset_by_fold(project, member, data, replace(options, tta="all"), callbacks)
    ids = data.slices["slice_id"].to_numpy(object)
    truth = Truth.of(data.slices)
    with open_heads(trained, options, callbacks.note) as heads:
        for done, fold in enumerate(todo):
            callbacks.phase(f"the heads predict {version.dataset}", done, len(todo))
            found = heads.predict(fold, prepared.other_data(fold, data))
            files = project.workspace.experiment_files(number).fold(fold)
            path = files.predictions(ROLE, "identity", version.dataset, version.number)
            precision = heads.hardware.precision
            draft = PredictionDraft(
                experiment=number,
                fold=fold,
                version_id=version.id,
                role=ROLE,
                view="identity",
                path=path.relative_to(project.workspace.root).as_posix(),
                slices=len(found.rows),
                digest=write_predictions(
                    path, Predictions(ids[found.rows], found.logits, precision, found.study_logits)
                ),
                score=truth.take(found.rows).scored(probabilities(found.logits)).score if truth.known else None,
            )
            project.store.add_predictions([draft])


def _reusable(path: Path, options: InferenceOptions) -> bool:
    """Return whether the stored predictions in `path` exist and have the requested precision."""
    wanted = options.precision
    return path.is_file() and (wanted == "auto" or wanted == read_predictions(path, _PREDICT).precision)
