"""Predicts DICOM files that belong to no dataset, with the finished folds of an experiment.

Slices take the same path as in training: header, series, HU cache, loader, windows, network. The cache is a temporary
folder that holds some complete series at a time, so that neither disk nor memory holds all pixels. Results are written
by `prediction_files`.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from ichx.cache.build import ensure_cache
from ichx.cache.requests import recipe_spec
from ichx.datasets.add import require_usable_slices
from ichx.datasets.catalog import usable_slices
from ichx.datasets.ingest_report import reading_warnings
from ichx.datasets.series import neighbour_rows, series_codes
from ichx.errors import CorruptFileError
from ichx.evaluation.choices import TTA_VIEWS, check_tta
from ichx.evaluation.feature_files import FeatureWriter
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.files import absolute_path
from ichx.inference.file_catalog import scan_files
from ichx.inference.prediction_tables import pooling_warnings, series_table, slice_table, study_table
from ichx.inference.scratch import scratch_folder
from ichx.inference.trained import FoldNetworks, InferenceOptions, find_trained, open_networks
from ichx.labels import LABELS
from ichx.store import marks
from ichx.training.feed import Rows
from ichx.training.prediction import PredictionTask
from ichx.training.slice_feed import SliceFeed

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

CHUNK: Final = 16_384
"""Slices that are cached at once; at 378 px they take 2 GB of disk space."""


@dataclass(frozen=True)
class FilePredictions:
    """Predictions of files by one experiment."""

    experiment: int
    name: str
    folds: tuple[int, ...]
    tta: str
    precision: str
    """The precision of the networks, e.g. `fp32`."""
    marks: tuple[str, ...]
    slices: pd.DataFrame
    """One row per slice, by patient, study, series and order, then one per unusable file or frame: `slice_id`,
    `patient`, `study`, `series` (keyed hashes), `order` (from 0), `position` (mm along the series), a probability per
    label, `flags` (names separated by spaces), `defect`, `file` (relative to the source), `frame`. Rows with a `defect`
    have no probabilities; they have ids if their header can be read."""
    studies: pd.DataFrame
    """One row per study: number of `slices`, of files or frames that are `left_out`, and of `series`, the largest
    probability per label, the slice with the largest probability of `any`, and the `flags` of its slices."""
    series: pd.DataFrame
    """One row per series, with the columns of `studies`."""
    defects: dict[str, int]
    """Number of rows by reason."""
    warnings: tuple[str, ...]
    """What may make predictions wrong: missing slices, values that were assumed, studies with several series."""
    source: Path
    catalog: pd.DataFrame = field(repr=False)
    """The catalog of the usable slices, the first rows of `slices`."""
    id_map: pd.DataFrame | None = field(repr=False)
    """The id behind each hash, if requested; see `ichx.inference.file_catalog.ScannedFiles.id_map`."""

    @property
    def predicted(self) -> int:
        """Number of slices with probabilities."""
        return int(self.slices["defect"].isna().sum())


@dataclass(frozen=True)
class FileOutputs:
    """What `predict_files` returns or writes besides probabilities."""

    features: Path | None = None
    """Pooled features are written next to this file, one file per fold and view."""
    keep_ids: bool = False
    """Return the ids of patients, studies and series instead of their hashes."""
    id_map: bool = False
    """Return the ids behind the hashes too."""


def predict_files(
    project: "Project",
    number: int,
    source: Path,
    options: InferenceOptions | None = None,
    *,
    callbacks: "Callbacks",
    outputs: FileOutputs | None = None,
) -> FilePredictions:
    """Predict DICOM files with an experiment. A probability is the mean over views, then over folds.

    Args:
        project: The open project.
        number: The experiment.
        source: A file, a folder, a zip, or a folder in a zip.
        options: Test-time augmentation, folds, device, loader.
        callbacks: Receives progress and notes.
        outputs: Features and ids.

    Raises:
        NotReadyError: The experiment has no finished fold.
        CorruptFileError: No file is a usable slice.
    """
    options, outputs = options or InferenceOptions(), outputs or FileOutputs()
    views, folds = TTA_VIEWS[check_tta(options.tta)], options.folds
    trained = find_trained(project, number, folds)
    if trained.partial is not None and folds is None:
        callbacks.note(f"experiment {number} predicts with {trained.partial}")
    source = absolute_path(source)
    key = project.workspace.privacy_key()
    files = scan_files(source, lambda done, total: callbacks.phase("reading headers", done, total))
    catalog = files.catalog(None if outputs.keep_ids else key)
    require_usable_slices(source, catalog)
    slices = usable_slices(catalog)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder(project.workspace.cache_dir))
        network = stack.enter_context(open_networks(trained, options, callbacks.note))
        writers = {
            (fold, view): stack.enter_context(FeatureWriter(_features_path(outputs.features, fold, view)))
            for fold in trained.weights
            for view in views
            if outputs.features is not None
        }
        predicted, undecodable = _Prediction(network, source, views, folder, writers, callbacks).of(slices)
    table = slice_table(catalog, slices, predicted, undecodable)
    studies = study_table(table)
    found = FilePredictions(
        experiment=number,
        name=trained.experiment.name,
        folds=tuple(trained.weights),
        tta=options.tta,
        precision=network.hardware.precision,
        marks=marks(trained.experiment),
        slices=table,
        studies=studies,
        series=series_table(table),
        defects={str(reason): int(count) for reason, count in table["defect"].value_counts().items()},
        warnings=(*reading_warnings(slices), *pooling_warnings(studies)),
        source=source,
        catalog=slices,
        id_map=files.id_map(key) if outputs.id_map else None,
    )
    if not found.predicted:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in found.defects.items())
        raise CorruptFileError(f"No slice in {source} can be decoded: {reasons}.", "Export or copy the files again.")
    return found


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
class _Prediction:
    """One prediction of files: the networks, where pixels are cached, and who receives features and progress."""

    networks: FoldNetworks
    source: Path
    views: Sequence[str]
    folder: Path
    writers: dict[tuple[int, str], FeatureWriter]
    callbacks: "Callbacks"

    def of(self, slices: pd.DataFrame) -> tuple[FloatArray, dict[int, str]]:
        """Return the probabilities (N, 6) of `slices`, NaN where decoding fails, and the reasons by row."""
        recipe, total = self.networks.trained.recipe, len(slices)
        predicted = np.full((total, len(LABELS)), np.nan)
        reasons: dict[int, str] = {}
        for start, stop in split_at_series(slices, CHUNK):
            part = slices.iloc[start:stop].reset_index(drop=True)
            part = part.assign(**neighbour_rows(part))

            def caching(done: int, of: int, start: int = start, stop: int = stop) -> None:
                self.callbacks.phase("decoding", start + done * (stop - start) // max(of, 1), total)

            cache = ensure_cache(self.folder, "files", self.source, part, recipe_spec(recipe), progress=caching)
            reasons |= {start + row: reason for row, reason in cache.defects.items()}
            rows = np.flatnonzero(cache.valid)
            feed = SliceFeed(cache, part, recipe, self.networks.workers)
            predicted[start + rows] = self._mean_over_folds(feed, rows, start, total)
            shutil.rmtree(cache.folder, ignore_errors=True)
        return predicted, reasons

    def _mean_over_folds(self, feed: SliceFeed, rows: Rows, before: int, total: int) -> FloatArray:
        """Return the mean probabilities (N, 6) of `rows` over views, then folds; `before` rows of `total` are done."""
        folds = self.networks.trained.weights
        passes = len(folds) * len(self.views)
        mean = np.zeros((len(rows), len(LABELS)))
        for index, fold in enumerate(folds):
            self.networks.load(fold)
            of_views = []
            for view_index, view in enumerate(self.views):
                done_passes = index * len(self.views) + view_index

                def report(done: int, done_passes: int = done_passes) -> None:
                    done_rows = before + (done_passes * len(rows) + done) // passes
                    self.callbacks.phase("predicting", done_rows, total)

                task = PredictionTask(view, features=self.writers.get((fold, view)), report=report)
                of_views.append(probabilities(self.networks.logits(feed, rows, task)))
            mean += np.mean(of_views, axis=0)
        return mean / len(folds)


def _features_path(next_to: Path, fold: int, view: str) -> Path:
    return next_to.with_name(f"{next_to.stem}-fold-{fold}-{view}-features.parquet")
