"""Scores of a prediction, per slice and per study: log loss, ranking, calibration.

Their intervals are in `ichx.evaluation.bootstrap`. Each score equals scikit-learn's on the same float64 input, clipped
beforehand for the log loss. Scores that are undefined say why.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import InvalidInputError, UnsupportedError
from ichx.evaluation.choices import Pooling, check_pooling
from ichx.evaluation.metric import CLIP, FloatArray, label_losses, weighted_score
from ichx.evaluation.ranking import SENSITIVITIES, SPECIFICITIES, rank, rank_scores
from ichx.labels import LABELS

CALIBRATION_BINS: Final = 10
"""Bins of equal width of the calibration error: [0, 0.1), [0.1, 0.2), ..., [0.9, 1]."""

SENSITIVITY_METRICS: Final = tuple(f"sensitivity_{round(100 * s)}" for s in SPECIFICITIES)
SPECIFICITY_METRICS: Final = tuple(f"specificity_{round(100 * s)}" for s in SENSITIVITIES)
UNKNOWN_LABEL: Final = "the label is not known for any row"
"""Why a label has no scores."""

LABEL_METRICS: Final = (
    *("log_loss", "auc", "average_precision", "brier", "calibration_error"),
    *SENSITIVITY_METRICS,
    *SPECIFICITY_METRICS,
)
"""Names of the scores of one label."""


@dataclass(frozen=True)
class LabelScores:
    """One label's scores, of the rows where it is known.

    Those of its ranking are None if one class is absent, all of them if the label is not known for any row.
    """

    label: str
    count: int
    """Number of rows where the label is known."""
    positives: int
    log_loss: float | None
    auc: float | None
    average_precision: float | None
    brier: float | None
    calibration_error: float | None
    sensitivity_80: float | None
    """At a specificity of 0.80."""
    sensitivity_90: float | None
    sensitivity_95: float | None
    specificity_90: float | None
    """At a sensitivity of 0.90."""
    specificity_95: float | None
    undefined: str | None
    """Which class is absent, or that the label is unknown."""


@dataclass(frozen=True)
class Scores:
    """The scores of a prediction."""

    unit: Literal["slice", "study"]
    pooling: Pooling | None
    """Of studies."""
    count: int
    """Number of slices or studies."""
    log_loss: float
    """Weighted over the labels that are known for any row; NaN if none is."""
    labels: tuple[LabelScores, ...]
    """In the order of `LABELS`."""


@dataclass(frozen=True)
class Studies:
    """Studies pooled from slices."""

    labels: FloatArray
    """`(S, 6)`"""
    probabilities: FloatArray
    """`(S, 6)`"""
    row: npt.NDArray[np.int64]
    """Row of each study's first slice, `(S,)`."""


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram of the B bins that are not empty."""

    predicted: FloatArray
    """Mean probability, `(B,)`."""
    observed: FloatArray
    """Share of positives, `(B,)`."""
    counts: npt.NDArray[np.int64]
    """Number of rows, `(B,)`."""

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of `predicted` and `observed`, weighted by rows."""
        return float(np.abs(self.predicted - self.observed) @ self.counts / self.counts.sum())


def slice_scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Scores:
    """Return the scores of slices: `(N, 6)` probabilities and labels in 0..1.

    Raises:
        InvalidInputError: There are no rows, or a value is not within 0..1. Labels may be NaN: unknown.
    """
    return _scores(labels, probabilities, None)


def study_scores(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    studies: npt.ArrayLike,
    pooling: Pooling = "max",
    learnt: FloatArray | None = None,
) -> Scores:
    """Return the scores of studies.

    Args:
        labels: Labels of the slices in 0..1, `(N, 6)`.
        probabilities: Probabilities of the slices, `(N, 6)`.
        studies: Study of each slice, `(N,)` codes or ids.
        pooling: How slices are pooled.
        learnt: Predicted probabilities of each slice's study, `(N, 6)`; None if there are none.

    Raises:
        InvalidInputError: There are no rows, a value is not within 0..1, or there is no such pooling.
        UnsupportedError: The pooling is `learnt`, and no study was predicted.
    """
    pooled = pool_studies(labels, probabilities, studies, pooling, learnt)
    return _scores(pooled.labels, pooled.probabilities, pooling)


def pool_studies(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    studies: npt.ArrayLike,
    pooling: Pooling = "max",
    learnt: FloatArray | None = None,
) -> Studies:
    """Return the studies of the slices, in the order of their first slices; arguments as in `study_scores`.

    A study's label is the maximum over its slices; unknown if one of them is, unless another one is positive. Where the
    study is labelled itself, pass its label for each of its slices.

    Its probability is the largest of its slices' with `max`, or 1 - prod(1 - p) with `noisy_or`, which takes slices as
    independent; neighbouring slices are not. With `learnt` it is the largest of `learnt`, which is equal for all slices
    of a series.
    """
    check_pooling(pooling)
    y, p = checked(labels, probabilities)
    code, names = pd.factorize(np.asarray(studies))
    row = np.unique(code, return_index=True)[1]
    truth, predicted = np.zeros((len(names), len(LABELS))), np.zeros((len(names), len(LABELS)))
    unknown = np.isnan(y)
    np.maximum.at(truth, code, np.nan_to_num(y) if unknown.any() else y)
    if unknown.any():
        missing = np.zeros(truth.shape, bool)
        np.logical_or.at(missing, code, unknown)
        truth[missing & (truth <= 0.5)] = np.nan
    if pooling == "learnt":
        if learnt is None:
            raise UnsupportedError(
                "No study probability was learnt for these predictions.",
                "Use --pooling max or noisy_or. Sequence experiments learn one: delete prediction files without it and "
                "rerun `ichx run` or `ichx evaluate`, which predicts what is missing.",
            )
        np.maximum.at(predicted, code, learnt)
    elif pooling == "max":
        np.maximum.at(predicted, code, p)
    else:
        np.add.at(predicted, code, np.log1p(-np.clip(p, CLIP, 1.0 - CLIP)))
        predicted = -np.expm1(predicted)
    return Studies(truth, predicted, row)


def calibration(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Calibration:
    """Return the reliability diagram of `(N,)` probabilities and `(N,)` labels in 0..1, or NaN where unknown."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if (unknown := np.isnan(y)).any():
        y, p = y[~unknown], p[~unknown]
    bins = calibration_bin(p)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    predicted, observed = (
        np.bincount(bins, weights=v, minlength=CALIBRATION_BINS)[filled] / counts[filled] for v in (p, y)
    )
    return Calibration(predicted, observed, counts[filled])


def calibration_bin(predicted: FloatArray) -> npt.NDArray[np.int64]:
    """Return the calibration bin of each probability."""
    return np.minimum((predicted * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def positive(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which of `labels` in 0..1 are positive in a ranking: those above 1/2."""
    return np.asarray(labels, dtype=np.float64) > 0.5


def absent_class(positives: int, count: int) -> str | None:
    """Return which class is absent among `count` rows where the label is known, or None if both occur."""
    if count == 0:
        return UNKNOWN_LABEL
    if positives == 0:
        return "the label never occurs"
    return "the label always occurs" if positives == count else None


def checked(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both as `(N, 6)` float64; raise `InvalidInputError` unless N > 0 and all values are within 0..1.

    Labels may be NaN: unknown.
    """
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 2 or y.shape[1] != len(LABELS):
        raise InvalidInputError(
            f"Invalid shapes: labels {y.shape}, probabilities {p.shape}.", f"Pass (N, {len(LABELS)}) arrays."
        )
    if not len(y):
        raise InvalidInputError("There is no slice to score.", "Pass at least one.")
    for what, values in (("labels", y), ("probabilities", p)):
        valid = (values >= 0) & (values <= 1)
        if values is y:
            valid |= np.isnan(values)
        bad = int((~valid).sum())
        if bad:
            nan = "NaN or " if values is p else ""
            raise InvalidInputError(
                f"{bad:,} {what} are {nan}outside 0..1.", "Correct the labels or predict from scratch."
            )
    return y, p


def _scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike, pooling: Pooling | None) -> Scores:
    y, p = checked(labels, probabilities)
    losses = label_losses(y, p)
    return Scores(
        unit="slice" if pooling is None else "study",
        pooling=pooling,
        count=len(y),
        log_loss=weighted_score(losses),
        labels=tuple(_label_scores(name, y[:, k], p[:, k], float(losses[k])) for k, name in enumerate(LABELS)),
    )


def _label_scores(name: str, y: FloatArray, p: FloatArray, loss: float) -> LabelScores:
    known = ~np.isnan(y)
    if not known.all():
        y, p = y[known], p[known]
    if not len(y):
        return LabelScores(name, 0, 0, **dict.fromkeys(LABEL_METRICS), undefined=UNKNOWN_LABEL)
    truth = positive(y)
    positives = int(truth.sum())
    undefined = absent_class(positives, len(y))
    ranked: list[float | None] = [None] * (2 + len(SPECIFICITIES) + len(SENSITIVITIES))
    if undefined is None:
        ranks = rank_scores(rank(truth, p), np.ones((1, 1)))
        rates = (*ranks.sensitivity, *ranks.specificity)
        ranked = [float(value[0]) for value in (ranks.auc, ranks.average_precision, *rates)]
    return LabelScores(
        label=name,
        count=len(y),
        positives=positives,
        log_loss=loss,
        auc=ranked[0],
        average_precision=ranked[1],
        brier=float(np.mean((p - y) ** 2)),
        calibration_error=calibration(y, p).error,
        sensitivity_80=ranked[2],
        sensitivity_90=ranked[3],
        sensitivity_95=ranked[4],
        specificity_90=ranked[5],
        specificity_95=ranked[6],
        undefined=undefined,
    )
