"""Sums of rows per patient, and their values in draws of patients, for statistics that follow from sums.

A draw takes as many patients as there are, with replacement, each with all their rows. All statistics share the draws,
so that their intervals fit together.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.evaluation.metric import FloatArray
from ichx.text import format_count

DRAWS: Final = 1000
"""Default number of draws."""

MIN_PATIENTS: Final = 20
"""Fewest patients for an interval: with fewer, a percentile interval is too narrow (`benchmarks/claims.py`)."""

MIN_IN_CLASS: Final = 10
"""Fewest patients with a label for an interval of any of its scores; for a ranking score, also without it."""

MIN_FOR_ERROR: Final = 5
"""Fewest patients for a standard error that decides between alternatives and is no part of a claim."""

_CHUNK = 32
"""Draws that are computed at once: they bound the memory."""


class PatientSums:
    """The patients of some rows, and draws of them."""

    def __init__(self, patients: npt.ArrayLike, draws: int = DRAWS, seed: int = 0) -> None:
        """Number the patients of rows `(N,)`; the same `seed` gives the same draws."""
        codes, names = pd.factorize(np.asarray(patients))
        self.codes: npt.NDArray[np.int64] = codes.astype(np.int64, copy=False)
        """Number of each row's patient, `(N,)`."""
        self.count = len(names)
        """Number of patients."""
        self._draws, self._seed = draws, seed

    def weights(self) -> Iterator[FloatArray]:
        """Yield how often each patient counts in each draw; see `draw_weights`."""
        return draw_weights(self.count, self._draws, self._seed)

    def count_with(self, rows: npt.NDArray[np.bool_]) -> int:
        """Return the number of patients with any of `rows` (N,)."""
        return self.count if rows.all() else len(np.unique(self.codes[rows]))

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the number of rows of each patient, `(count,)`."""
        return np.bincount(self.codes, minlength=self.count)

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sums of the columns of `values` (N, C) over each patient's rows, `(C, count)`."""
        return np.stack([np.bincount(self.codes, weights=column, minlength=self.count) for column in values.T])

    def counts(self, cells: npt.NDArray[np.int64], size: int, rows: npt.NDArray[np.bool_]) -> FloatArray:
        """Return the number of the `rows` (N,) of each patient in each of `size` cells, `(size, count)`."""
        place = cells[rows] * self.count + self.codes[rows]
        counts = np.bincount(place, minlength=size * self.count).astype(np.float64)
        return counts.reshape(size, self.count)

    def drawn(self, sums: FloatArray, statistic: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """Return `statistic` in draws of patients, `(S, draws)`.

        Args:
            sums: Per patient, `(C, count)`.
            statistic: From totals `(C, D)` to values `(S, D)`, for any number D of draws.
        """
        return np.concatenate([statistic(sums @ weights) for weights in self.weights()], axis=1)

    def drawn_means(self, values: FloatArray) -> FloatArray:
        """Return the means of the columns of `values` (N, C) over the rows of each draw, `(C, draws)`.

        NaN does not count; a draw without any other value has the mean NaN.
        """
        known = ~np.isnan(values)
        if known.all():
            sums, rows = self.sums(values), self.rows()
            return np.concatenate([sums @ weights / (rows @ weights) for weights in self.weights()], axis=1)
        sums, counts = self.sums(np.nan_to_num(values)), self.sums(known.astype(np.float64))
        with np.errstate(invalid="ignore"):
            return np.concatenate([sums @ weights / (counts @ weights) for weights in self.weights()], axis=1)

    def shortage(self, truth: npt.NDArray[np.bool_] | None = None) -> str | None:
        """Return why there is no interval: too few patients, or too few with or without the label."""
        few = patient_shortage(self.count)
        if few is not None or truth is None:
            return few
        return self.class_shortage(truth, "with") or self.class_shortage(~truth, "without")

    def class_shortage(self, rows: npt.NDArray[np.bool_], having: str) -> str | None:
        """Return why there is no interval if too few patients have one of the `rows`, which are those `having` it."""
        patients = len(np.unique(self.codes[rows]))
        if patients >= MIN_IN_CLASS:
            return None
        return f"no interval from {format_count(patients, 'patient')} {having} the label"


def patient_shortage(patients: int) -> str | None:
    """Return why there is no interval if this number of patients is too small."""
    return None if patients >= MIN_PATIENTS else f"no interval from {format_count(patients, 'patient')}"


def draw_weights(patients: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each patient counts in each draw, whole numbers (patients, chunk), in chunks of draws.

    Multinomial: as many patients as there are, with replacement. The same numbers give the same draws.
    """
    random = np.random.default_rng(seed)
    for begin in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - begin)
        chosen = random.integers(0, patients, (size, patients))
        chosen += np.arange(size)[:, None] * patients
        counts = np.bincount(chosen.ravel(), minlength=size * patients).reshape(size, patients)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)
