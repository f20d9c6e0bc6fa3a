"""Score of a submission or prediction file on held-out labels. Submissions are written in `submission`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_catalog
from ichx.datasets.id_matching import match_images, spell_like
from ichx.datasets.label_csv import read_labels
from ichx.errors import IchxError, InvalidInputError, raise_problems
from ichx.evaluation.bootstrap import Bootstrap, patient_bootstrap
from ichx.evaluation.evaluation_count import record_evaluation, rows_digest
from ichx.evaluation.prediction_input import read_prediction_table
from ichx.evaluation.scores import Scores, slice_scores
from ichx.store import EvaluationDraft
from ichx.text import EXAMPLES, format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class SubmissionScore:
    """The scores of a file."""

    file: Path
    labels: Path
    scores: Scores
    """Per slice."""
    bootstrap: Bootstrap | None
    """The same with intervals over patients; None if the patients are unknown."""
    dataset: str | None
    """The dataset that knows the patients."""
    unlabelled: int
    """Predicted slices without labels, which do not count."""


def score_file(
    path: Path, labels: Path, *, as_logits: bool = False, project: "Project | None" = None
) -> SubmissionScore:
    """Return the scores of the predictions at `path` on the slices in the label CSV `labels`, and count the evaluation.

    Args:
        path: A submission, or a wide table; CSV or Parquet.
        labels: Held-out labels, as of `ichx data add`.
        as_logits: The predictions are logits.
        project: The open project, whose datasets know the patients of the slices and whose store counts evaluations.

    Raises:
        InvalidInputError: A file is invalid, or labelled slices have no prediction.
        NotFoundError: There is no such file.
    """
    table, truth = read_prediction_table(path, as_logits=as_logits), read_labels(labels)
    ids = pd.Index(table.images)
    if not ids.is_unique:
        twice = ids[ids.duplicated()].unique()
        raise InvalidInputError(
            f"{path}: {format_count(len(twice), 'slice')} predicted by several folds"
            f"{format_examples(list(map(str, twice[:EXAMPLES])), len(twice))}.",
            "Score one file per fold, or their mean.",
        )
    if not set(truth.ids) <= set(ids):
        ids = pd.Index(spell_like(table.images, pd.Series(truth.ids)))
    rows = ids.get_indexer(pd.Index(truth.ids)) if ids.is_unique else np.full(len(truth.ids), -1)
    missing = truth.ids[rows < 0]
    raise_problems(
        [
            f"{path}: no prediction of {format_count(len(missing), 'slice')} with labels"
            f"{format_examples(list(map(str, missing[:EXAMPLES])), len(missing))}."
        ]
        if len(missing)
        else [],
        "Predict all labelled slices.",
    )
    y, p = truth.values.astype(np.float64), table.probabilities[rows]
    dataset, patients = (None, None) if project is None else _find_patients(project, truth.ids, labels)
    scores = slice_scores(y, p)
    if project is not None:
        record_evaluation(
            project,
            EvaluationDraft(
                "submit score",
                rows_digest(truth.ids, y),
                rows_digest(truth.ids, p),
                scores.log_loss,
                dataset=dataset,
                version=None if dataset is None else project.store.version(dataset).number,
                file=path.name,
            ),
        )
    return SubmissionScore(
        file=path,
        labels=labels,
        scores=scores,
        bootstrap=None if patients is None else patient_bootstrap(y, p, patients),
        dataset=dataset,
        unlabelled=len(ids) - len(rows),
    )


def _find_patients(
    project: "Project", images: npt.NDArray[np.object_], path: Path
) -> tuple[str | None, npt.NDArray[np.object_] | None]:
    """Return the first dataset that has all `images`, and their patients; None if there is none."""
    for dataset in project.store.datasets():
        try:
            catalog = load_catalog(project.workspace, project.store.version(dataset.name))
            match = match_images(catalog, images, path)
        except IchxError:
            continue
        matched = match.image >= 0
        patients = np.full(len(images), None, object)
        patients[match.image[matched]] = catalog["patient"].to_numpy(object)[matched]
        if not pd.isna(patients).any():
            return dataset.name, patients
    return None, None
