"""Scores that depend on the order of predictions only: ROC area, average precision, sensitivity and specificity.

Other scores are in `ichx.evaluation.scores`. A label's rows are sorted once, into blocks of equal probability; scores
for any weights of groups of rows (patients drawn by a bootstrap) then are sums over the blocks.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ichx.evaluation.metric import FloatArray

SPECIFICITIES: Final = (0.80, 0.90, 0.95)
"""Specificities at which the sensitivity is reported."""

SENSITIVITIES: Final = (0.90, 0.95)
"""Sensitivities at which the specificity is reported."""

_TILE = 512
"""Blocks summed at once, so that they stay in the processor's cache; a multiple of `_STEP`."""
_STEP = 32
_LOWER_TRIANGLE = np.tril(np.ones((_STEP, _STEP)))


@dataclass(frozen=True)
class Ranking:
    """One label's rows, sorted by falling probability, as counts (blocks, groups) of positive and negative rows.

    A block holds the rows of one probability. Neighbouring blocks of negative rows only are merged: no threshold
    between them is better than the one above them.
    """

    tiles: tuple[tuple[csr_array, csr_array], ...]
    """Counts of positive and of negative rows, `_TILE` blocks at a time."""
    totals: FloatArray
    """Number of positive and negative rows of each group, `(2, groups)`."""


@dataclass(frozen=True)
class RankScores:
    """Scores of `D` weightings; NaN where a weighting has no positive or no negative row."""

    auc: FloatArray
    """`(D,)`"""
    average_precision: FloatArray
    """`(D,)`"""
    sensitivity: FloatArray
    """`(len(SPECIFICITIES), D)`"""
    specificity: FloatArray
    """`(len(SENSITIVITIES), D)`"""


def rank(
    truth: npt.NDArray[np.bool_],
    predicted: FloatArray,
    groups: npt.NDArray[np.int64] | None = None,
    count: int = 1,
) -> Ranking:
    """Return the ranking of one label's rows.

    Args:
        truth: Which rows are positive, `(N,)`.
        predicted: Probabilities, `(N,)`.
        groups: The group of each row, `(N,)` in 0..count - 1; None puts all rows in one group.
        count: Number of groups.
    """
    order = np.argsort(-predicted, kind="stable")
    value, is_positive = predicted[order], truth[order]
    group = np.zeros(len(order), np.int64) if groups is None else groups[order]
    begins = np.ones(len(order), bool)
    begins[1:] = value[1:] != value[:-1]
    level = np.cumsum(begins) - 1
    has_positive = np.bincount(level[is_positive], minlength=int(begins.sum())) > 0
    starts_block = has_positive.copy()
    starts_block[1:] |= has_positive[:-1]
    starts_block[:1] = True
    block = (np.cumsum(starts_block) - 1)[level]
    shape = (-(-int(starts_block.sum()) // _STEP) * _STEP, count)  # padded with empty blocks, which change nothing

    def counts(rows: npt.NDArray[np.bool_]) -> csr_array:
        cell, times = np.unique(block[rows] * count + group[rows], return_counts=True)
        return csr_array((times.astype(np.float64), (cell // count, cell % count)), shape=shape)

    positives, negatives = counts(is_positive), counts(~is_positive)
    tiles = tuple((positives[at : at + _TILE], negatives[at : at + _TILE]) for at in range(0, shape[0], _TILE))
    return Ranking(tiles, np.stack([np.bincount(group[rows], minlength=count) for rows in (is_positive, ~is_positive)]))


def rank_scores(ranking: Ranking, weights: npt.ArrayLike) -> RankScores:
    """Return the scores for `weights` (groups, D): how often the rows of each group count, whole numbers.

    AUC: share of pairs of a positive and a negative row in the right order, ties counting half. Average precision: sum
    over thresholds of the rise in recall times the precision. Sensitivity: largest at any threshold whose specificity
    is at least the required one; specificity accordingly. Counts are whole numbers, so their sums are exact.
    """
    by_group = np.asarray(weights, np.float64)
    positives, negatives = ranking.totals @ by_group
    hits, alarms = np.zeros_like(positives), np.zeros_like(positives)
    ordered, average = np.zeros_like(positives), np.zeros_like(positives)
    best_hits = np.zeros((len(SPECIFICITIES), len(positives)))
    least_alarms = np.tile(negatives, (len(SENSITIVITIES), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        for tile_positives, tile_negatives in ranking.tiles:
            found, passed = tile_positives @ by_group, tile_negatives @ by_group
            hit, alarm = _running_sums(found, hits), _running_sums(passed, alarms)
            ordered += np.einsum("bd,bd->d", passed, hit) - np.einsum("bd,bd->d", passed, found) / 2
            average += np.einsum("bd,bd->d", found, hit / np.maximum(hit + alarm, 1))
            first, last = (negatives - alarm[0]) / negatives, (negatives - alarm[-1]) / negatives
            for best, required in zip(best_hits, SPECIFICITIES, strict=True):
                if (last >= required).all():
                    best[:] = hit[-1]
                elif (first >= required).any():  # specificity only falls, so few tiles get here
                    allowed = (negatives - alarm) / negatives >= required
                    np.maximum(best, np.where(allowed, hit, 0).max(axis=0), out=best)
            before, after = hits / positives, hit[-1] / positives
            for least, required in zip(least_alarms, SENSITIVITIES, strict=True):
                if ((before < required) & (after >= required)).any():  # sensitivity only rises: one tile per draw
                    allowed = hit / positives >= required
                    np.minimum(least, np.where(allowed, alarm, np.inf).min(axis=0), out=least)
            hits, alarms = hit[-1], alarm[-1]
        auc, average, sensitivity = ordered / (positives * negatives), average / positives, best_hits / positives
        specificity = (negatives - least_alarms) / negatives
    undefined = (positives == 0) | (negatives == 0)
    for values in (auc, average, sensitivity, specificity):
        values[..., undefined] = np.nan
    return RankScores(auc, average, sensitivity, specificity)


def _running_sums(counts: FloatArray, before: FloatArray) -> FloatArray:
    """Return `before` (D,) plus the cumulative sums of `counts` (B, D) over the rows; B is a multiple of `_STEP`.

    Products with a triangular matrix are faster than NumPy's cumsum along this axis, and as exact for whole numbers.
    """
    sums = np.matmul(_LOWER_TRIANGLE, counts.reshape(-1, _STEP, counts.shape[1]))
    sums[1:] += np.cumsum(sums[:-1, -1], axis=0)[:, None]
    sums += before
    running: FloatArray = sums.reshape(counts.shape)
    return running
