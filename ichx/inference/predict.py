"""Predicts DICOM files that belong to no dataset, with the finished folds of an experiment.

Slices take the same path as in training: header, series, HU cache, loader, windows, network. The cache is a temporary
folder that holds some complete series at a time, so that neither disk nor memory holds all pixels. Results are written
by `prediction_files`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ichx.datasets.add import require_usable_slices
from ichx.datasets.catalog import usable_slices
from ichx.datasets.ingest_report import reading_warnings
from ichx.errors import CorruptFileError
from ichx.evaluation.averaging import mean_of
from ichx.evaluation.choices import Average, check_average, check_tta
from ichx.files import absolute_path
from ichx.inference.file_catalog import scan_files
from ichx.inference.member_predictions import FileSlices, predict_files_by_fold
from ichx.inference.prediction_tables import pooling_warnings, series_table, slice_table, study_table
from ichx.inference.scratch import scratch_folder
from ichx.inference.trained import InferenceOptions, find_trained
from ichx.store import marks

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


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
    average: Average = "logit"
    """What was averaged over views and folds."""

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
    """Predict DICOM files with an experiment. A prediction is the mean over views and folds.

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
    folds, average = options.folds, check_average(options.average)
    check_tta(options.tta)
    trained = find_trained(project, number, folds)
    if trained.partial is not None and folds is None:
        callbacks.note(f"experiment {number} predicts with {trained.partial}")
    source = absolute_path(source)
    key = project.workspace.privacy_key()
    files = scan_files(source, lambda done, total: callbacks.phase("reading headers", done, total))
    catalog = files.catalog(None if outputs.keep_ids else key)
    require_usable_slices(source, catalog)
    slices = usable_slices(catalog)
    with scratch_folder(project.workspace.cache_dir) as folder:
        predicted = predict_files_by_fold(
            trained, FileSlices(source, slices, folder), options, callbacks, outputs.features
        )
    mean = mean_of(list(predicted.folds.values()), average)
    table = slice_table(catalog, slices, mean, predicted.undecodable)
    studies = study_table(table)
    found = FilePredictions(
        experiment=number,
        name=trained.experiment.name,
        folds=tuple(trained.weights),
        tta=options.tta,
        precision=predicted.precision,
        marks=marks(trained.experiment),
        slices=table,
        studies=studies,
        series=series_table(table),
        defects={str(reason): int(count) for reason, count in table["defect"].value_counts().items()},
        warnings=(*reading_warnings(slices), *pooling_warnings(studies)),
        source=source,
        catalog=slices,
        id_map=files.id_map(key) if outputs.id_map else None,
        average=average,
    )
    if not found.predicted:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in found.defects.items())
        raise CorruptFileError(f"No slice in {source} can be decoded: {reasons}.", "Export or copy the files again.")
    return found
