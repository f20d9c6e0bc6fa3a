"""The scores of a prediction, per slice and per study: log loss, ranking, calibration; undefined ones say why.

Each is what scikit-learn gives for the same float64 input, clipped beforehand where a logarithm is taken. Their
intervals are the bootstrap's (`ichx.evaluation.bootstrap`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import IchxError
from ichx.evaluation.metric import CLIP, FloatArray, label_losses
from ichx.evaluation.ranking import SPECIFICITIES, rank, rank_scores
from ichx.labels import LABEL_WEIGHTS, LABELS

CALIBRATION_BINS: Final = 10
"""Bins of equal width in which calibration is judged: [0, 0.1), [0.1, 0.2), ..., [0.9, 1]."""

POOLINGS: Final = ("max", "noisy_or")
"""How a study's probability comes from its slices': the largest, or that of at least one if slices were independent."""

SENSITIVITIES: Final = tuple(f"sensitivity_{round(100 * s)}" for s in SPECIFICITIES)
LABEL_METRICS: Final = ("log_loss", "auc", "average_precision", "brier", "calibration_error", *SENSITIVITIES)
"""The scores of one label, by the names that they have everywhere."""


@dataclass(frozen=True)
class LabelScores:
    """One label's scores over `count` rows, of which `positives` are positive.

    `auc`, `average_precision` and the sensitivities (at specificities of 0.80, 0.90 and 0.95) are None where rows of
    one class are absent; `undefined` says which.
    """

    label: str
    count: int
    positives: int
    log_loss: float
    auc: float | None
    average_precision: float | None
    brier: float
    calibration_error: float
    sensitivity_80: float | None
    sensitivity_90: float | None
    sensitivity_95: float | None
    undefined: str | None


@dataclass(frozen=True)
class Scores:
    """The scores of a prediction: the weighted log loss, and each label's scores, in the order of `LABELS`.

    `unit` is `slice` or `study`; a study's `pooling` is one of `POOLINGS`.
    """

    unit: str
    pooling: str | None
    count: int
    log_loss: float
    labels: tuple[LabelScores, ...]


@dataclass(frozen=True)
class Studies:
    """Pooled slices: `labels` and `probabilities` (S, 6) of studies, and a row (S,) of each among the slices."""

    labels: FloatArray
    probabilities: FloatArray
    row: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """Per non-empty bin (B,): the mean predicted probability, the share of positives and the number of rows."""

    predicted: FloatArray
    observed: FloatArray
    counts: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error: the bins' mean distance of the two, weighted by rows."""
        return float(np.abs(self.predicted - self.observed) @ self.counts / self.counts.sum())


def slice_scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Scores:
    """Return the scores of `(N, 6)` probabilities on `(N, 6)` labels in 0..1, whose rows are slices.

    Raises `IchxError` where there is no row, or a probability is not within 0..1.
    """
    return _scores(labels, probabilities, "slice", None)


def study_scores(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, studies: npt.ArrayLike, pooling: str = "max"
) -> Scores:
    """Return the scores of studies, whose slices are the rows of `labels` and `probabilities` (N, 6).

    `studies` (N,) are codes or ids. Raises `IchxError` as `slice_scores`, and for an unknown `pooling`.
    """
    pooled = pool_studies(labels, probabilities, studies, pooling)
    return _scores(pooled.labels, pooled.probabilities, "study", pooling)


def pool_studies(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, studies: npt.ArrayLike, pooling: str = "max"
) -> Studies:
    """Return each study's label, the maximum over its slices, and its probability, in the order of first slices.

    `max` is the largest probability of its slices; `noisy_or` is 1 - prod(1 - p), the probability of at least one
    positive slice if these were independent, which neighbouring slices are not.
    """
    if pooling not in POOLINGS:
        raise IchxError(f"there is no pooling {pooling!r}", f"choose one of {', '.join(POOLINGS)}")
    y, p = checked(labels, probabilities)
    code, names = pd.factorize(np.asarray(studies))
    row = np.unique(code, return_index=True)[1]
    truth, predicted = np.zeros((len(names), len(LABELS))), np.zeros((len(names), len(LABELS)))
    np.maximum.at(truth, code, y)
    if pooling == "max":
        np.maximum.at(predicted, code, p)
    else:
        np.add.at(predicted, code, np.log1p(-np.clip(p, CLIP, 1.0 - CLIP)))
        predicted = -np.expm1(predicted)
    return Studies(truth, predicted, row)


def calibration(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Calibration:
    """Return how `(N,)` probabilities and `(N,)` labels in 0..1 agree in bins of equal width."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    bins = calibration_bin(p)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    means = [np.bincount(bins, weights=v, minlength=CALIBRATION_BINS)[filled] / counts[filled] for v in (p, y)]
    return Calibration(predicted=means[0], observed=means[1], counts=counts[filled])


def calibration_bin(predicted: FloatArray) -> npt.NDArray[np.int64]:
    """Return the calibration bin of each probability."""
    return np.minimum((predicted * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def positive(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which of `labels` in 0..1 count as positive in rankings: those over 1/2."""
    return np.asarray(labels, dtype=np.float64) > 0.5


def absent_class(positives: int, count: int) -> str | None:
    """Return why a ranking of `count` rows says nothing, or None where both classes occur."""
    if positives == 0:
        return "the label never occurs"
    return "the label always occurs" if positives == count else None


def checked(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both as `(N, 6)` float64; raise `IchxError` unless they are probabilities of as many rows, one or more."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 2 or y.shape[1] != len(LABELS):
        raise IchxError(
            f"labels of shape {y.shape} and probabilities of shape {p.shape}", f"both must be (N, {len(LABELS)})"
        )
    if not len(y):
        raise IchxError("there is no slice to score", "give at least one")
    for what, values in (("labels", y), ("probabilities", p)):
        bad = int((~((values >= 0) & (values <= 1))).sum())
        if bad:
            raise IchxError(f"{bad:,} {what} are NaN or outside 0..1", "predict anew, or correct the labels")
    return y, p


def _scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike, unit: str, pooling: str | None) -> Scores:
    y, p = checked(labels, probabilities)
    losses = label_losses(y, p)
    each = tuple(_label_scores(name, y[:, k], p[:, k], float(losses[k])) for k, name in enumerate(LABELS))
    return Scores(unit, pooling, len(y), float(np.average(losses, weights=LABEL_WEIGHTS)), each)


def _label_scores(name: str, y: FloatArray, p: FloatArray, loss: float) -> LabelScores:
    truth = positive(y)
    positives = int(truth.sum())
    undefined = absent_class(positives, len(y))
    auc = average = None
    sensitivity: list[float | None] = [None] * len(SPECIFICITIES)
    if undefined is None:
        ranked = rank_scores(rank(truth, p), np.ones((1, 1)))
        auc, average = float(ranked.auc[0]), float(ranked.average_precision[0])
        sensitivity = [float(s) for s in ranked.sensitivity[:, 0]]
    return LabelScores(
        label=name,
        count=len(y),
        positives=positives,
        log_loss=loss,
        auc=auc,
        average_precision=average,
        brier=float(np.mean((p - y) ** 2)),
        calibration_error=calibration(y, p).error,
        sensitivity_80=sensitivity[0],
        sensitivity_90=sensitivity[1],
        sensitivity_95=sensitivity[2],
        undefined=undefined,
    )
