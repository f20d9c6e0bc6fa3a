"""What depends on the order of predictions alone: ROC area, average precision, sensitivity at fixed specificities.

A label's predictions are sorted once, into blocks; for weights of groups of rows (patients drawn by a bootstrap), all
that is left are sums over the blocks. Ties count as ties: rows of equal probability stand in one block.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

FloatArray = npt.NDArray[np.float64]

SPECIFICITIES: Final = (0.80, 0.90, 0.95)
"""Specificities at which the sensitivity is told."""


_TILE = 512
"""Blocks whose sums are computed at once, so that they stay in the processor's cache; a multiple of `_STEP`."""

_STEP = 32
_BELOW = np.tril(np.ones((_STEP, _STEP)))


@dataclass(frozen=True)
class Ranking:
    """One label's rows, sorted by falling probability, as counts (blocks, groups) of positive and negative rows.

    A block holds the rows of one probability; neighbouring blocks that hold negative rows alone are one block, for no
    threshold between them is better than the one above them. `tiles` are the counts of `_TILE` blocks at a time, and
    `totals` (2, groups) those of all blocks, positive and negative.
    """

    tiles: tuple[tuple[csr_array, csr_array], ...]
    totals: FloatArray


@dataclass(frozen=True)
class RankScores:
    """Scores of `D` weightings: `auc` (D,), `average_precision` (D,), `sensitivity` (len(SPECIFICITIES), D).

    NaN where a weighting has no positive or no negative row.
    """

    auc: FloatArray
    average_precision: FloatArray
    sensitivity: FloatArray


def rank(
    truth: npt.NDArray[np.bool_],
    predicted: FloatArray,
    groups: npt.NDArray[np.int64] | None = None,
    count: int = 1,
) -> Ranking:
    """Return the ranking of `predicted` (N,) with `truth` (N,), whose rows belong to `groups` (N,) of 0..count - 1.

    Without `groups` all rows are one group.
    """
    order = np.argsort(-predicted, kind="stable")
    value, is_positive = predicted[order], truth[order]
    owner = np.zeros(len(order), np.int64) if groups is None else groups[order]
    begins = np.ones(len(order), bool)
    begins[1:] = value[1:] != value[:-1]
    level = np.cumsum(begins) - 1
    has_positive = np.bincount(level[is_positive], minlength=int(begins.sum())) > 0
    apart = has_positive.copy()
    apart[1:] |= has_positive[:-1]
    apart[:1] = True
    block = (np.cumsum(apart) - 1)[level]
    shape = (-(-int(apart.sum()) // _STEP) * _STEP, count)  # empty blocks at the end change nothing

    def counts(rows: npt.NDArray[np.bool_]) -> csr_array:
        found, times = np.unique(block[rows] * count + owner[rows], return_counts=True)
        return csr_array((times.astype(np.float64), (found // count, found % count)), shape=shape)

    found, passed = counts(is_positive), counts(~is_positive)
    tiles = tuple((found[at : at + _TILE], passed[at : at + _TILE]) for at in range(0, shape[0], _TILE))
    return Ranking(tiles, np.stack([np.bincount(owner[rows], minlength=count) for rows in (is_positive, ~is_positive)]))


def rank_scores(ranking: Ranking, weights: npt.ArrayLike) -> RankScores:
    """Return the scores for `weights` (groups, D): how often the rows of each group count, whole numbers.

    AUC: the share of pairs of a positive and a negative row that are in order, ties counting half. Average precision:
    the sum over thresholds of the rise in recall times the precision. Sensitivity: the largest at any threshold whose
    specificity is at least the wanted one. Counts are whole numbers, so that their sums are exact.
    """
    by_group = np.asarray(weights, np.float64)
    positives, negatives = ranking.totals @ by_group
    hits, alarms = np.zeros_like(positives), np.zeros_like(positives)
    ordered, average = np.zeros_like(positives), np.zeros_like(positives)
    caught = np.zeros((len(SPECIFICITIES), len(positives)))
    with np.errstate(invalid="ignore", divide="ignore"):
        for of_positive, of_negative in ranking.tiles:
            found, passed = of_positive @ by_group, of_negative @ by_group
            hit, alarm = _running(found, hits), _running(passed, alarms)
            ordered += np.einsum("bd,bd->d", passed, hit) - np.einsum("bd,bd->d", passed, found) / 2
            average += np.einsum("bd,bd->d", found, hit / np.maximum(hit + alarm, 1))
            first, last = (negatives - alarm[0]) / negatives, (negatives - alarm[-1]) / negatives
            for reached, wanted in zip(caught, SPECIFICITIES, strict=True):
                if (last >= wanted).all():
                    reached[:] = hit[-1]
                elif (first >= wanted).any():  # it only falls, and so soon that few tiles count
                    allowed = (negatives - alarm) / negatives >= wanted
                    np.maximum(reached, np.where(allowed, hit, 0).max(axis=0), out=reached)
            hits, alarms = hit[-1], alarm[-1]
        auc, average, sensitivity = ordered / (positives * negatives), average / positives, caught / positives
    undefined = (positives == 0) | (negatives == 0)
    for values in (auc, average, sensitivity):
        values[..., undefined] = np.nan
    return RankScores(auc, average, sensitivity)


def _running(counts: FloatArray, before: FloatArray) -> FloatArray:
    """Return the sums (B, D) of `before` (D,) and the rows of `counts` (B, D) up to each, B a multiple of `_STEP`.

    By matrices of ones, which is faster than NumPy's cumsum along this axis and, of whole numbers, as exact.
    """
    sums = np.matmul(_BELOW, counts.reshape(-1, _STEP, counts.shape[1]))
    sums[1:] += np.cumsum(sums[:-1, -1], axis=0)[:, None]
    sums += before
    running: FloatArray = sums.reshape(counts.shape)
    return running
