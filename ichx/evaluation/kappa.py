"""Agreement of readers beyond chance: kappa of Cohen for two, of Fleiss for more, with intervals over patients.

kappa = (observed - expected) / (1 - expected) agreement (Cohen, Educational and Psychological Measurement 1960; Fleiss,
Psychological Bulletin 1971). Values are 0 or 1.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.evaluation.bootstrap import Interval, percentile_interval
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, PatientSums

ALIKE: Final = "all readers give one value to every study"


def cohen_kappa(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], patients: npt.ArrayLike, *, draws: int = DRAWS
) -> Interval:
    """Return Cohen's kappa of two readers' values `(N,)` of the same studies; `patients` (N,) are their patients."""
    cells = np.stack([first & second, first & ~second, ~first & second, ~first & ~second], axis=1).astype(np.float64)

    def kappa(totals: FloatArray) -> FloatArray:
        both, one, two, neither = totals
        rows = both + one + two + neither
        with np.errstate(invalid="ignore", divide="ignore"):
            p, q = (both + one) / rows, (both + two) / rows
            expected = p * q + (1 - p) * (1 - q)
            found: FloatArray = (((both + neither) / rows - expected) / (1 - expected))[None]
        return found

    return _interval(cells, kappa, patients, first | second, draws)


def fleiss_kappa(values: npt.NDArray[np.bool_], patients: npt.ArrayLike, *, draws: int = DRAWS) -> Interval:
    """Return Fleiss' kappa of R >= 2 readers' values `(N, R)` of the same studies, each read by all of them."""
    readers = values.shape[1]
    votes = values.sum(axis=1).astype(np.float64)
    agreeing = (votes * (votes - 1) + (readers - votes) * (readers - votes - 1)) / (readers * (readers - 1))
    columns = np.stack([np.ones_like(votes), votes, agreeing], axis=1)

    def kappa(totals: FloatArray) -> FloatArray:
        rows, positive, observed = totals
        with np.errstate(invalid="ignore", divide="ignore"):
            share = positive / (readers * rows)
            expected = share**2 + (1 - share) ** 2
            found: FloatArray = ((observed / rows - expected) / (1 - expected))[None]
        return found

    return _interval(columns, kappa, patients, votes > 0, draws)


def _interval(
    columns: FloatArray,
    kappa: Callable[[FloatArray], FloatArray],
    patients: npt.ArrayLike,
    seen: npt.NDArray[np.bool_],
    draws: int,
) -> Interval:
    """Return the kappa of the totals of `columns` (N, C) with its interval; a reader saw the label in rows `seen`."""
    if not len(columns):
        return Interval(None, None, None, None, "no study was read by both")
    sample = PatientSums(patients, draws)
    sums = sample.sums(columns)
    value = float(kappa(sums.sum(axis=1, keepdims=True))[0, 0])
    if not np.isfinite(value):
        return Interval(None, None, None, None, ALIKE)
    return percentile_interval(value, sample.drawn(sums, kappa)[0], sample.shortage(seen))
