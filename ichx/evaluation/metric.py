"""The score: the weighted multi-label log loss of the RSNA 2019 challenge. Lower is better.

A label may be unknown (NaN): it does not count. A label's loss is the mean over the slices where it is known, and the
score is weighted over the labels that are known for any slice.
"""

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
    """Return the log loss of each slice and label, `(N, 6)`, of `(N, 6)` labels in 0..1 and probabilities.

    It is NaN where the label is.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(predicted, dtype=np.float64), CLIP, 1.0 - CLIP)
    losses: FloatArray = -np.log1p(-p)
    positive = np.nonzero(y)  # few of the entries: the logarithm is slow
    losses[positive] = (1.0 - y[positive]) * losses[positive] - y[positive] * np.log(p[positive])
    return losses


def weighted_row_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the weighted loss of each slice, `(N,)`, whose mean is the score.

    An unknown label contributes 0; the known ones of its column weigh more, so that the mean remains the score.
    """
    losses = row_losses(labels, predicted)
    if not np.isnan(losses).any():
        complete: FloatArray = losses @ LABEL_SHARES
        return complete
    counts = (~np.isnan(losses)).sum(axis=0)
    found: FloatArray = np.nan_to_num(losses) @ (known_shares(counts) * entry_weights(losses))
    return found if counts.any() else np.full(len(losses), np.nan)


def entry_weights(values: FloatArray) -> FloatArray:
    """Return N / n of each column of `values` (N, K), `(K,)`: n of its entries are known, not NaN."""
    counts = (~np.isnan(values)).sum(axis=0)
    weights: FloatArray = len(values) / np.maximum(counts, 1)
    return weights


def single_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the weighted loss of each slice by itself, `(N,)`: of its known labels; NaN if none is known."""
    losses = row_losses(labels, predicted)
    known = ~np.isnan(losses)
    if known.all():
        complete: FloatArray = losses @ LABEL_SHARES
        return complete
    weights = known @ LABEL_SHARES
    sums = np.nan_to_num(losses) @ LABEL_SHARES
    found: FloatArray = np.divide(sums, weights, out=np.full(len(losses), np.nan), where=weights > 0)
    return found


def known_shares(counts: npt.ArrayLike) -> FloatArray:
    """Return the weights of the labels, `(6,)`: 0 for those with a count of 0, the others summing to 1."""
    shares: FloatArray = LABEL_SHARES * (np.asarray(counts) > 0)
    return shares if shares.all() else shares / max(float(shares.sum()), np.finfo(float).tiny)


def prevalences_of(labels: npt.ArrayLike) -> FloatArray:
    """Return the mean of each label where it is known, `(6,)`; 1/2 for a label that never is."""
    y = np.asarray(labels, dtype=np.float64)
    counts = (~np.isnan(y)).sum(axis=0)
    if (counts == len(y)).all():
        means: FloatArray = y.mean(axis=0)
        return means
    return np.where(counts > 0, np.nansum(y, axis=0) / np.maximum(counts, 1), 0.5)


def label_losses(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> FloatArray:
    """Return the mean log loss of each label, `(6,)`, of `(N, 6)` labels in 0..1 and probabilities.

    The mean is over the slices where the label is known; NaN if it never is.
    """
    losses = row_losses(labels, predicted)
    counts = (~np.isnan(losses)).sum(axis=0)
    if (counts == len(losses)).all():
        means: FloatArray = losses.mean(axis=0)
        return means
    return np.where(counts > 0, np.nansum(losses, axis=0) / np.maximum(counts, 1), np.nan)


def score(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Return the weighted log loss of `(N, 6)` labels and probabilities: weight 2 for `any`, 1 for the others.

    NaN if no label is known. Source: evaluation page of Kaggle's RSNA Intracranial Hemorrhage Detection, 2019.
    """
    return weighted_score(label_losses(labels, predicted))


def weighted_score(losses: FloatArray) -> float:
    """Return the weighted mean of the labels' losses `(6,)`, of those that are not NaN; NaN if all are."""
    known = ~np.isnan(losses)
    if not known.any():
        return float("nan")
    return float(np.average(losses[known], weights=np.asarray(LABEL_WEIGHTS)[known]))


def constant_score(train_labels: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the score on `labels` of predicting the prevalences of `train_labels` for every slice."""
    y = np.asarray(labels, dtype=np.float64)
    return score(y, np.broadcast_to(prevalences_of(train_labels), y.shape))
