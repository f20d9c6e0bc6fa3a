"""What a score is of: slices, or studies where no label of a slice is known."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ichx.datasets.study_labels import has_study_labels, slice_truth, study_truth
from ichx.evaluation.metric import FloatArray, score
from ichx.evaluation.scores import pool_studies

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScoredRows:
    """Slices or studies with labels and predictions."""

    unit: Literal["slice", "study"]
    labels: FloatArray
    """`(N, 6)`, NaN where unknown."""
    probabilities: FloatArray
    """`(N, 6)`"""
    row: npt.NDArray[np.int64]
    """Row of each slice, or of each study's first slice, among the predicted slices, `(N,)`."""

    @property
    def score(self) -> float:
        """The weighted log loss."""
        return score(self.labels, self.probabilities)


@dataclass(frozen=True)
class Truth:
    """What the scores of N slices are computed from."""

    labels: FloatArray
    """`(N, 6)` labels of slices, NaN where unknown or only known for the study."""
    to_pool: FloatArray
    """`(N, 6)` labels whose maximum over a study is the study's label."""
    studies: npt.NDArray[np.object_]
    """`(N,)`"""

    @classmethod
    def of(cls, slices: "pd.DataFrame") -> "Truth":
        """Return the truth of rows of a dataset."""
        labels = slice_truth(slices)
        to_pool = study_truth(slices) if has_study_labels(slices) else labels
        return cls(labels, to_pool, slices["study"].to_numpy(object))

    @property
    def unit(self) -> Literal["slice", "study"]:
        """What a score is of: studies if no label of a slice is known, but one of a study."""
        return "slice" if not np.isnan(self.labels).all() or np.isnan(self.to_pool).all() else "study"

    @property
    def known(self) -> bool:
        """Whether any label is known."""
        return not np.isnan(self.to_pool).all()

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Truth":
        """Return the truth of some of the slices."""
        return Truth(self.labels[rows], self.to_pool[rows], self.studies[rows])

    def scored(self, probabilities: FloatArray) -> ScoredRows:
        """Return what a score of predictions `(N, 6)` is of; a study's probability is the largest of its slices."""
        if self.unit == "slice":
            return ScoredRows("slice", self.labels, probabilities, np.arange(len(self.labels)))
        pooled = pool_studies(self.to_pool, probabilities, self.studies)
        return ScoredRows("study", pooled.labels, pooled.probabilities, pooled.row)
