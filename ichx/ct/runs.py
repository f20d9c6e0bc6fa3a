"""Runs of a series: chains of slices at its spacing. The spacing is found in `spacing`, the order in `geometry`.

Two scans of a region are often stored as one series, interleaved (steps 4.41, 0.59, 4.41, 0.59 mm) or at the same
places. Adjacent slices then belong to different scans, and so do their labels: a slice's neighbours are those of its
run. Among all ways to chain the slices of a series, the one with the least total cost is found as a matching of each
slice with the next one of its run. The unit of cost is one irregular step.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from ichx.ct.geometry import steps_between
from ichx.ct.spacing import SAME_PLACE, explain_steps, tolerance

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FAR: Final = 40.0
"""A step over so many mm ends a run: there, a positive slice no longer makes the other one more likely than not."""

START: Final = 1.75
"""Cost of a run: less than two irregular steps (a slice of another scan), more than one (a change of spacing)."""

IRREGULAR: Final = 1.0
HOLE: Final = 0.5
"""Costs of a step that equals no spacing around it, and of a multiple of one: slices are missing."""

LONGER: Final = 0.1
LONGEST: Final = 0.5
"""Additional costs of an irregular step or hole per spacing of its length beyond the first, and their maximum."""

MIDWAY: Final = 0.05
"""Steps whose share of the spacing is so near to a half are no reason for several runs: positions may be rounded."""

REGULAR: Final = 0.8
"""Share of steps that are regular or equal the next one. A random subset of the slices of a scan has fewer."""

TIE: Final = 1e-3
"""Cost of the largest jump in instance numbers, which distinguish scans of the same places."""

REACH: Final = 40
"""Number of slices after a slice among which the next one of its run is searched, plus those at one place."""


def find_runs(
    series: npt.NDArray[np.integer[Any]],
    order: npt.NDArray[np.integer[Any]],
    along: FloatArray,
    instance_number: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.int32]:
    """Return the run of each slice, (N,): from 0 in each series, by the position of its first slice.

    A missing slice or a change of spacing does not end a run, a step of more than 40 mm does. A slice that is between
    or at the places of others begins another run. A series without positions, or with all slices at one place, is one
    run.

    Args:
        series: (N,) codes from 0.
        order: (N,) ranks in the series.
        along: (N,) positions in mm, NaN for all slices of a series without positions.
        instance_number: (N,).
    """
    sequence = np.lexsort((order, series))
    codes, step = series[sequence], steps_between(series, order, along)[sequence]
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    bounds = np.append(first, len(codes))
    breaks = np.cumsum(step > FAR)
    runs: IntArray = breaks - np.repeat(breaks[first], np.diff(bounds))
    chained = _may_have_several(codes, step)[codes[first]]
    several = [slice(start, stop) for (start, stop), chain in zip(pairwise(bounds), chained, strict=True) if chain]
    for number, explained in explain_steps([step[part][1:] for part in several]):
        part = several[number]
        rows = sequence[part]
        sides = np.column_stack(
            [np.append(explained.before[0], explained.before), np.append(explained.after, explained.after[-1])]
        )
        runs[part] = _chain(along[rows], sides, instance_number[rows].astype(float))
    ordered = np.empty(len(series), np.int32)
    ordered[sequence] = runs
    return ordered


def _may_have_several(series: npt.NDArray[np.integer[Any]], step: FloatArray) -> npt.NDArray[np.bool_]:
    """Return for each code whether its steps leave room for several runs: places scanned twice, or short steps.

    Args:
        series: (N,) codes from 0, sorted.
        step: (N,) in mm, NaN for the first slice of a series.
    """
    largest = np.fmax(np.append(np.nan, step[:-1]), np.append(step[1:], np.nan))  # of the adjacent steps
    count = int(series.max(initial=-1)) + 1
    short = np.bincount(series[step < largest - tolerance(largest)], minlength=count)
    twice = np.bincount(series[step < SAME_PLACE], minlength=count)
    return np.asarray((short >= 2) | (twice >= 1), bool)


def _chain(along: FloatArray, spacing: FloatArray, instance_number: FloatArray) -> IntArray:
    """Return the run of each of the n slices of a series, (n,).

    Args:
        along: (n,) positions in mm, sorted.
        spacing: (n, 2) spacing in mm before and after each slice.
        instance_number: (n,).
    """
    size = len(along)
    first = np.flatnonzero(np.diff(along, prepend=-np.inf) >= SAME_PLACE)  # slice of each place
    at_place = np.diff(first, append=size)
    reach = min(REACH + int(at_place.max()), size)
    repeat = np.arange(size) - np.repeat(first, at_place)
    one = np.repeat(np.arange(size), reach)
    other = one + np.tile(np.arange(1, reach + 1), size)
    inside = other < size
    one, other = one[inside], other[inside]
    length = along[other] - along[one]
    linked = (length >= SAME_PLACE) & (length <= FAR)
    one, other, length = one[linked], other[linked], length[linked, None]
    around = np.column_stack([spacing[one], spacing[other]])
    within = tolerance(around)
    multiple = np.maximum(np.round(length / around), 1)
    regular = (np.abs(length - around) <= within).any(axis=1)
    hole = (np.abs(length - multiple * around) <= within + 0.01 * multiple * around).any(axis=1)
    longer = np.minimum(LONGER * np.maximum(length[:, 0] / around.max(axis=1) - 1, 0), LONGEST)
    cost = np.where(regular, 0, np.where(hole, HOLE, IRREGULAR) + longer)
    of_one_run: IntArray = np.cumsum(np.diff(along, prepend=along[0]) > FAR)
    midway = (np.abs(length / around - 0.5) < MIDWAY).any(axis=1)
    if at_place.max() == 1 and cost[(other == one + 1) & ~midway].sum() < START:
        return of_one_run
    jump = np.maximum(np.abs(instance_number[other] - instance_number[one]) - 2, 0)  # by 2 if passes are interleaved
    cost += TIE * (jump / max(float(np.ptp(instance_number)), 1.0)) ** 2
    cost += TIE * 0.01 * ((repeat[other] - repeat[one]) / at_place.max()) ** 2
    # A slice is matched with the next one of its run, or with itself at the end of a run. Weights must not be 0.
    ends = np.arange(size)
    weights = np.concatenate([cost, np.full(size, START)]) + 1
    # int32, because older versions of SciPy accept no other indices here.
    places = np.concatenate([one, ends]).astype(np.int32), np.concatenate([other, size + ends]).astype(np.int32)
    following = min_weight_full_bipartite_matching(coo_array((weights, places), (size, 2 * size)).tocsr())[1]
    taken = following[one] == other
    step = np.full(size + 1, np.nan)  # to the next slice of the run
    step[one[taken]] = length[taken, 0]
    steady = np.abs(step[one] - step[np.minimum(other, size)]) <= tolerance(step[one])
    if (regular | steady)[taken].sum() < REGULAR * taken.sum() and at_place.max() == 1:
        return of_one_run
    runs, count = np.full(size, -1, np.int64), 0
    for row in range(size):
        if runs[row] < 0:
            runs[row], count = count, count + 1
        if following[row] < size:
            runs[following[row]] = runs[row]
    return runs
