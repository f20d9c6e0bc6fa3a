"""The scores that a report shows, per label, with scikit-learn; undefined ones say why. No curves and no drawing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from ichx.evaluation.metric import FloatArray, label_losses, score
from ichx.labels import LABELS

CALIBRATION_BINS = 10
"""Bins of equal width in which calibration is judged: [0, 0.1), [0.1, 0.2), ..., [0.9, 1]."""


@dataclass(frozen=True)
class LabelScores:
    """One label's scores over `count` rows; `auc` and `average_precision` are None where `undefined` says why."""

    label: str
    count: int
    positives: int
    log_loss: float
    auc: float | None
    average_precision: float | None
    brier: float
    calibration_error: float
    undefined: str | None


@dataclass(frozen=True)
class Scores:
    """The weighted log loss over `count` slices, and each label's scores, in the order of `LABELS`."""

    count: int
    log_loss: float
    labels: tuple[LabelScores, ...]


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


def positive(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which of `labels` in 0..1 count as positive in rankings: those over 1/2."""
    return np.asarray(labels, dtype=np.float64) > 0.5


def calibration(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Calibration:
    """Return how `(N,)` probabilities and `(N,)` labels in 0..1 agree in bins of equal width."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    bins = np.minimum((p * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    means = [np.bincount(bins, weights=v, minlength=CALIBRATION_BINS)[filled] / counts[filled] for v in (p, y)]
    return Calibration(predicted=means[0], observed=means[1], counts=counts[filled])


def slice_scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Scores:
    """Return the scores of `(N, 6)` probabilities on `(N, 6)` labels in 0..1, whose rows are slices."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    losses = label_losses(y, p)
    each = tuple(_label_scores(name, y[:, k], p[:, k], float(losses[k])) for k, name in enumerate(LABELS))
    return Scores(len(y), score(y, p), each)


def _label_scores(name: str, y: FloatArray, p: FloatArray, loss: float) -> LabelScores:
    truth = positive(y)
    positives = int(truth.sum())
    undefined = None
    if positives in (0, len(y)):
        undefined = "the label never occurs" if positives == 0 else "the label always occurs"
    return LabelScores(
        label=name,
        count=len(y),
        positives=positives,
        log_loss=loss,
        auc=None if undefined else float(roc_auc_score(truth, p)),
        average_precision=None if undefined else float(average_precision_score(truth, p)),
        brier=float(np.mean((p - y) ** 2)),
        calibration_error=calibration(y, p).error,
        undefined=undefined,
    )
