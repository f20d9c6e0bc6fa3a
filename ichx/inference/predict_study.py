"""Predicts one study of files that are in no dataset, for a viewer. All files, with tables: `predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ichx.errors import CorruptFileError
from ichx.evaluation.logistic import logits
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.subject import Subject
from ichx.inference.member_predictions import FileSlices, predict_files_by_fold
from ichx.inference.ready_model import ready_model
from ichx.inference.trained import training_warnings
from ichx.text import format_folds

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


@dataclass(frozen=True)
class StudyPrediction:
    """What predicted a study; the predictions are in a file."""

    name: str
    """`CNN`, `sequence` or `ensemble`."""
    view: str
    """What was averaged, e.g. `mean over folds 0, 1, 2`."""
    warnings: tuple[str, ...]


def predict_study(
    project: "Project", of: tuple[str, int], source: Path, slices: pd.DataFrame, out: Path, callbacks: "Callbacks"
) -> StudyPrediction:
    """Predict the slices of a study and write a prediction file.

    Args:
        project: The open project.
        of: `experiment` or `ensemble`, and its number.
        source: The file, folder or zip of the slices.
        slices: Rows of a catalog by series and order, index 0..n-1.
        out: The file; its folder also receives temporary caches.
        callbacks: Receives progress and notes.

    Raises:
        NotReadyError: The experiment has no finished fold, or the ensemble no stored model.
        ChangedDataError: Weights or files are missing or were changed.
        CorruptFileError: No slice can be decoded.
    """
    kind, number = of
    model = ready_model(project, Subject(number, ensemble=kind == "ensemble"), None, callbacks.note)
    folds, undecodable = {}, set[int]()
    for k, trained in model.members.items():
        part = FileSlices(source, slices, out.parent, members=len(model.members))
        found = predict_files_by_fold(trained, part, model.options, callbacks)
        folds[k], undecodable = found.folds, undecodable | set(found.undecodable)
    rows = np.setdiff1d(np.arange(len(slices)), list(undecodable)).astype(np.int64)
    if not len(rows):
        raise CorruptFileError("No slice of this study can be decoded.", "Export or copy the files again.")
    predicted = model.mean(
        {k: {fold: p[rows] for fold, p in of_member.items()} for k, of_member in folds.items()},
        SeriesNeighbours.of(slices.iloc[rows]),
    )
    ids = slices["slice_id"].to_numpy(object)[rows]
    write_predictions(out, Predictions(ids, logits(predicted).astype(np.float32)))
    name = "ensemble" if model.ensemble is not None else "sequence" if model.shown.experiment.members else "CNN"
    warnings = training_warnings(project, model.shown.experiment, slices)
    return StudyPrediction(name, f"mean over {format_folds(model.folds)}", tuple(warnings))
