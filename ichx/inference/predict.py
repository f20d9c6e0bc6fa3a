"""Predicts DICOM files that belong to no dataset, with the finished folds of an experiment or with an ensemble.

Slices take the same path as in training: header, series, HU cache, loader, windows, network. The cache is a temporary
folder that holds some complete series at a time, so that neither disk nor memory holds all pixels. Results are written
by `prediction_files`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ichx.cache.hu_cache import estimated_bytes
from ichx.cache.local_copy import local_folder
from ichx.datasets.catalog import usable_slices
from ichx.datasets.ingest_report import reading_warnings
from ichx.datasets.new_version import require_usable_slices
from ichx.errors import CorruptFileError
from ichx.evaluation.averaging import mean_of
from ichx.evaluation.choices import Average
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.files import absolute_path
from ichx.inference.file_catalog import scan_files
from ichx.inference.member_predictions import CHUNK, FileSlices, predict_files_by_fold
from ichx.inference.prediction_tables import pooling_warnings, series_table, slice_table, study_table, with_learnt
from ichx.inference.ready_model import ReadyModel
from ichx.inference.scratch import scratch_folder
from ichx.inference.trained import training_warnings
from ichx.labels import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


LARGE_SIZE: Final = 512
"""Pixels of a slice for which space is reserved, as most networks read less."""


@dataclass(frozen=True)
class FilePredictions:
    """Predictions of files by one experiment or ensemble."""

    experiment: int
    """The experiment, or the member of the ensemble with the largest weight, whose heat maps are shown."""
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
    probability per label, the slice with the largest probability of `any`, and the `flags` of its slices. A sequence
    experiment adds the probability that it has learnt for the study, `learnt_LABEL`."""
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
    ensemble: int | None = None
    """The ensemble that predicted; None for an experiment."""
    recalibrated: str | None = None
    """Name of the recalibration that was applied to the probabilities."""
    thresholds: tuple[dict[str, Any], ...] = ()
    """Stored thresholds behind the columns `called_LABEL`: `label`, `unit`, `threshold`, `rule` and its `value`."""

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
    check: "Callable[[Path, pd.DataFrame], None] | None" = None
    """Receives the source and the catalog of the usable slices before anything is predicted; may raise."""


def predict_files(
    project: "Project",
    model: ReadyModel,
    source: Path,
    *,
    callbacks: "Callbacks",
    outputs: FileOutputs | None = None,
) -> FilePredictions:
    """Predict DICOM files with a model. A prediction is the mean over views and folds, or the blend of an ensemble.

    Args:
        project: The open project.
        model: An experiment or an ensemble.
        source: A file, a folder, a zip, or a folder in a zip.
        callbacks: Receives progress and notes.
        outputs: Features and ids.

    Raises:
        CorruptFileError: No file is a usable slice.
    """
    outputs = outputs or FileOutputs()
    source = absolute_path(source)
    key = project.workspace.privacy_key()
    files = scan_files(source, lambda done, total: callbacks.phase("reading headers", done, total))
    catalog = files.catalog(None if outputs.keep_ids else key)
    require_usable_slices(source, catalog)
    slices = usable_slices(catalog)
    if outputs.check is not None:
        outputs.check(source, slices)
    by_member = {}
    space = estimated_bytes(min(len(slices), CHUNK), LARGE_SIZE)
    local = local_folder(project.workspace, callbacks.note, space)
    with scratch_folder(local or project.workspace.cache_dir) as folder:
        for k, trained in model.members.items():
            part = FileSlices(source, slices, folder, members=len(model.members))
            by_member[k] = predict_files_by_fold(trained, part, model.options, callbacks, outputs.features)
    undecodable: dict[int, str] = {}
    for one in by_member.values():
        undecodable |= one.undecodable
    rows = np.setdiff1d(np.arange(len(slices)), list(undecodable)).astype(np.int64)
    folds = {k: {fold: p[rows] for fold, p in one.folds.items()} for k, one in by_member.items()}
    predicted = np.full((len(slices), len(LABELS)), np.nan)
    if len(rows):
        predicted[rows] = model.recalibrated(model.mean(folds, SeriesNeighbours.of(slices.iloc[rows])))
    table = slice_table(catalog, slices, predicted, undecodable)
    studies = study_table(table)
    if model.ensemble is None and (learnt := next(iter(by_member.values())).studies):
        studies = with_learnt(studies, slices, mean_of(list(learnt.values()), model.options.average))
    found = FilePredictions(
        experiment=model.shown.experiment.number,
        name=model.name,
        folds=model.folds,
        tta=model.options.tta,
        precision=", ".join(sorted({one.precision for one in by_member.values()})),
        marks=model.marks,
        slices=table,
        studies=studies,
        series=series_table(table),
        defects={str(reason): int(count) for reason, count in table["defect"].value_counts().items()},
        warnings=(
            *training_warnings(project, model.shown.experiment, slices),
            *reading_warnings(slices),
            *pooling_warnings(studies),
        ),
        source=source,
        catalog=slices,
        id_map=files.id_map(key) if outputs.id_map else None,
        average=model.options.average,
        ensemble=model.ensemble,
        recalibrated=None if model.recalibration is None else model.recalibration.name,
    )
    if not found.predicted:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in found.defects.items())
        raise CorruptFileError(f"No slice in {source} can be decoded: {reasons}.", "Export or copy the files again.")
    return found
