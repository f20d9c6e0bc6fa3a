"""The score: the weighted multi-label log loss of the RSNA 2019 challenge. Lower is better."""

import numpy as np
import numpy.typing as npt

from ichx.labels import LABEL_WEIGHTS

CLIP = 1e-15
"""Probabilities are clipped to [CLIP, 1 - CLIP] before the logarithm."""

LABEL_SHARES = np.asarray(LABEL_WEIGHTS) / sum(LABEL_WEIGHTS)
"""Weights of the labels, summing to 1."""

FloatArray = npt.NDArray[np.float64]


def probabilities(logits: npt.ArrayLike) -> FloatArray:
    """Return the logistic function of `logits`, in float64 and without overflow."""
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def row_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the log loss of each slice and label, `(N, 6)`, of `(N, 6)` labels in 0..1 and probabilities."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(predicted, dtype=np.float64), CLIP, 1.0 - CLIP)
    losses: FloatArray = -np.log1p(-p)
    positive = np.nonzero(y)  # few of the entries: the logarithm is slow
    losses[positive] = (1.0 - y[positive]) * losses[positive] - y[positive] * np.log(p[positive])
    return losses


def weighted_row_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the weighted loss of each slice, `(N,)`, whose mean is the score."""
    losses: FloatArray = row_losses(labels, predicted) @ LABEL_SHARES
    return losses


def label_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the mean log loss of each label, `(6,)`, of `(N, 6)` labels in 0..1 and probabilities."""
    losses: FloatArray = row_losses(labels, predicted).mean(axis=0)
    return losses


def score(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Return the weighted log loss of `(N, 6)` labels and probabilities: weight 2 for `any`, 1 for the others.

    Source: evaluation page of Kaggle's RSNA Intracranial Hemorrhage Detection, 2019.
    """
    return float(np.average(label_losses(labels, predicted), weights=LABEL_WEIGHTS))


def constant_score(train_labels: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the score on `labels` of predicting the prevalences of `train_labels` for every slice."""
    y = np.asarray(labels, dtype=np.float64)
    prevalence = np.asarray(train_labels, dtype=np.float64).mean(axis=0)
    return score(y, np.broadcast_to(prevalence, y.shape))
