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


@dataclass(frozen=True)
class Ranking:
    """One label's rows, sorted by falling probability, as counts (blocks, groups) of positive and negative rows.

    A block holds the rows of one probability; neighbouring blocks that hold negative rows alone are one block, for no
    threshold between them is better than the one above them.
    """

    positive: csr_array
    negative: csr_array


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
    shape = (int(apart.sum()), count)

    def counts(rows: npt.NDArray[np.bool_]) -> csr_array:
        found, times = np.unique(block[rows] * count + owner[rows], return_counts=True)
        return csr_array((times.astype(np.float64), (found // count, found % count)), shape=shape)

    return Ranking(counts(is_positive), counts(~is_positive))


def rank_scores(ranking: Ranking, weights: npt.ArrayLike) -> RankScores:
    """Return the scores for `weights` (groups, D): how often the rows of each group count, whole numbers.

    AUC: the share of pairs of a positive and a negative row that are in order, ties counting half. Average precision:
    the sum over thresholds of the rise in recall times the precision. Sensitivity: the largest at any threshold whose
    specificity is at least the wanted one. Counts are whole numbers, so that their sums are exact.
    """
    by_group = np.asarray(weights, np.float64)
    found, passed = ranking.positive @ by_group, ranking.negative @ by_group
    hits, alarms = np.cumsum(found, axis=0), np.cumsum(passed, axis=0)
    positives, negatives = hits[-1], alarms[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = np.einsum("bd,bd->d", passed, hits - found / 2) / (positives * negatives)
        precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits > 0)
        average = np.einsum("bd,bd->d", found, precision) / positives
        sensitivity = np.stack([_sensitivity(hits, alarms, wanted) for wanted in SPECIFICITIES])
    undefined = (positives == 0) | (negatives == 0)
    for values in (auc, average, sensitivity):
        values[..., undefined] = np.nan
    return RankScores(auc, average, sensitivity)


def _sensitivity(hits: FloatArray, alarms: FloatArray, specificity: float) -> FloatArray:
    """Return the largest sensitivity with at least `specificity`; calling nothing positive is a threshold, too."""
    negatives = alarms[-1]
    allowed = ((negatives - alarms) / negatives >= specificity).sum(axis=0)  # blocks from the top, as alarms only rise
    reached = np.take_along_axis(hits, np.maximum(allowed - 1, 0)[None, :], axis=0)[0]
    share: FloatArray = np.where(allowed > 0, reached, 0.0) / hits[-1]
    return share
