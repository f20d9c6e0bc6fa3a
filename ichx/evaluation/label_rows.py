"""The rows of one label: slices or studies with a known label, its probability and the patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.choices import Pooling
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.scores import pool_studies, positive
from ichx.evaluation.subgroup_scores import Predicted, Unit
from ichx.labels import LABELS


@dataclass(frozen=True)
class LabelRows:
    """Slices or studies whose label is known."""

    truth: npt.NDArray[np.bool_]
    """`(N,)`"""
    probabilities: FloatArray
    """`(N,)`"""
    patients: npt.NDArray[np.object_]
    """`(N,)`"""
    studies: npt.NDArray[np.object_]
    """Study of each row, `(N,)`."""

    @property
    def both_classes(self) -> bool:
        """Whether there are rows with and without the label."""
        return bool(self.truth.any() and not self.truth.all())

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "LabelRows":
        """Return some of the rows."""
        return LabelRows(self.truth[rows], self.probabilities[rows], self.patients[rows], self.studies[rows])


def label_rows(predicted: Predicted, label: str, unit: Unit = "slice", pooling: Pooling = "max") -> LabelRows:
    """Return the rows of `label` in `predicted`, without those whose label is unknown.

    Args:
        predicted: Predictions of slices.
        label: One of `LABELS`.
        unit: What a row is.
        pooling: How slices are pooled into studies.
    """
    k = LABELS.index(label)
    labels, p = predicted.labels, predicted.probabilities
    patients, studies = (predicted.slices[name].to_numpy(object) for name in ("patient", "study"))
    if unit == "study":
        pooled = pool_studies(predicted.labels_to_pool, p, studies, pooling, predicted.study_probabilities)
        labels, p, patients, studies = pooled.labels, pooled.probabilities, patients[pooled.row], studies[pooled.row]
    known = ~np.isnan(labels[:, k])
    return LabelRows(positive(labels[known, k]), p[known, k], patients[known], studies[known])
