"""Sums of rows per patient, and their values in draws of patients, for statistics that follow from sums.

The draws are those of `ichx.evaluation.bootstrap`, so that intervals of several statistics fit together.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.evaluation.bootstrap import DRAWS, MIN_IN_CLASS, MIN_PATIENTS, draw_weights
from ichx.evaluation.metric import FloatArray
from ichx.text import format_count


class PatientSums:
    """The patients of some rows."""

    def __init__(self, patients: npt.ArrayLike) -> None:
        """Number the patients of rows `(N,)`."""
        codes, names = pd.factorize(np.asarray(patients, object))
        self.codes: npt.NDArray[np.int64] = codes.astype(np.int64, copy=False)
        """Number of each row's patient, `(N,)`."""
        self.count = len(names)
        """Number of patients."""

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sums of the columns of `values` (N, C) over each patient's rows, `(C, count)`."""
        return np.stack([np.bincount(self.codes, weights=column, minlength=self.count) for column in values.T])

    def counts(self, cells: npt.NDArray[np.int64], size: int, rows: npt.NDArray[np.bool_]) -> FloatArray:
        """Return the number of the `rows` (N,) of each patient in each of `size` cells, `(size, count)`."""
        place = cells[rows] * self.count + self.codes[rows]
        counts = np.bincount(place, minlength=size * self.count).astype(np.float64)
        return counts.reshape(size, self.count)

    def drawn(self, sums: FloatArray, statistic: Callable[[FloatArray], FloatArray], draws: int = DRAWS) -> FloatArray:
        """Return `statistic` in draws of patients.

        Args:
            sums: Per patient, `(C, count)`.
            statistic: From totals `(C, D)` to values `(S, D)`, for any number D of draws.
            draws: Number of draws.

        Returns:
            `(S, draws)`
        """
        chunks = [statistic(sums @ weights) for weights in draw_weights(self.count, draws, 0)]
        return np.concatenate(chunks, axis=1)

    def shortage(self, truth: npt.NDArray[np.bool_] | None = None) -> str | None:
        """Return why there is no interval: too few patients, or too few with or without the label."""
        if self.count < MIN_PATIENTS:
            return f"no interval from {format_count(self.count, 'patient')}"
        if truth is None:
            return None
        for rows, having in ((truth, "with"), (~truth, "without")):
            count = len(np.unique(self.codes[rows]))
            if count < MIN_IN_CLASS:
                return f"no interval from {format_count(count, 'patient')} {having} the label"
        return None
