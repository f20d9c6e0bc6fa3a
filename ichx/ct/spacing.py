"""Spacing of the slices of a series, and where it is broken: gaps and overlaps.

Positions are in `geometry`, runs in `runs`.

Series change their spacing (thin slices at the base of the skull, thick ones above), and parts of a head are scanned
again with an offset. The steps of a series are therefore explained as blocks of one regular spacing each. Among all
explanations, the one with the least total cost is found by dynamic programming (Viterbi). The unit of cost is one
missing slice.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SAME_PLACE: Final = 0.1
"""Slices nearer to each other than this, in mm, show the same place."""

GAP_OVER: Final = 1.8
"""A step that is no multiple of the spacing is a gap if it exceeds so many spacings."""

GAP_BETWEEN: Final = 1.1
"""A step between two blocks is a gap if it exceeds so many times the larger spacing."""

OVERLAP_UNDER: Final = 0.4
"""A step of less than this part of the spacing and of both adjacent steps lies between two scans of one position."""

TOLERANCE: Final = 0.03
TOLERANCE_MM: Final = 0.06
"""A step equals a spacing if it differs by at most this part of it, or by so many mm."""

HOLE: Final = 1.0
LONGER_HOLE: Final = 0.25
UNKNOWN: Final = 2.5
"""Costs of one missing slice, of each further one in the same hole, and of a step without explanation, the maximum."""

PASS: Final = 0.4
OUTER_PASS: Final = 0.6
MIDWAY_PASS: Final = 0.85
LONE_PASS: Final = 1.2
"""Costs of a step between two passes: inside them, at their ends, of half the spacing, and not continued."""

FIRST_CHANGE: Final = 1.9
LATER_CHANGE: Final = 4.0
"""Costs of the first change of spacing and of each later one. Two equal wide steps at an end are a change."""

BETWEEN: Final = 0.5
WIDE_BETWEEN: Final = 1.0
"""Costs of a step between blocks that equals neither spacing, and of one that exceeds both."""

OFTEN: Final = 8
"""Steps from which a spacing is certain."""

SPACINGS: Final = 6
"""Maximum number of spacings that are tried for a series, the most frequent ones."""

BATCH: Final = 20_000
"""Steps that are explained at once, which limits memory."""

ON_SPACING, SAME, BETWEEN_PASSES, MISSING, UNEXPLAINED, CHANGE = range(6)
"""How a step is explained."""


def find_gaps_and_overlaps(
    series: npt.NDArray[np.integer[Any]], order: npt.NDArray[np.integer[Any]], steps: FloatArray
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which slices follow a gap, and which are next to a slice of another scan of the same position, (N,) each.

    In a block of one spacing, a step is a gap if it is a multiple of the spacing, or over 1.8 spacings; between two
    blocks, if it exceeds 1.1 times the larger spacing. A step is an overlap if it is below 0.4 times the spacing and
    both adjacent steps, and the steps around it are regular enough to know the spacing. In a random subset of a
    series' slices, small steps are not overlaps.

    Args:
        series: (N,) codes.
        order: (N,) ranks in the series.
        steps: (N,) in mm, as of `steps_between`; NaN for the first slice and for a series without positions.
    """
    sequence = np.lexsort((order, series))
    known = sequence[np.isfinite(steps[sequence])]
    step = steps[known].astype(float)
    gap, overlap = np.zeros(len(series), bool), np.zeros(len(series), bool)
    starts = np.flatnonzero(np.diff(series[known], prepend=-1))
    irregular: list[tuple[npt.NDArray[np.intp], FloatArray]] = []
    for start, stop in zip(starts, np.append(starts[1:], len(known))[: len(starts)], strict=True):
        of_series = step[start:stop]
        middle = float(np.partition(of_series, len(of_series) // 2)[len(of_series) // 2])
        if middle < SAME_PLACE or (np.abs(of_series - middle) > tolerance(middle)).any():
            irregular.append((known[start:stop], of_series))
    for number, explained in explain_steps([of_series for _, of_series in irregular]):
        rows, of_series = irregular[number]
        gap[rows], overlap[rows] = _flags(of_series, explained)
    return gap, overlap


@dataclass(frozen=True)
class ExplainedSteps:
    """How the n steps of a series are explained, `(n,)` each."""

    kind: npt.NDArray[np.int8]
    """`ON_SPACING` to `CHANGE`."""
    before: FloatArray
    """Spacing of the block before the step, in mm."""
    after: FloatArray
    """Spacing of the block of the step, in mm; other than `before` if the step is a change."""


def explain_steps(series: Sequence[FloatArray]) -> Iterator[tuple[int, ExplainedSteps]]:
    """Yield the number of each series in `series`, the steps in mm of each, with its explanation.

    Series whose slices are all at the same place have none.
    """
    batches: dict[int, list[tuple[int, FloatArray]]] = defaultdict(list)
    for number, steps in enumerate(series):
        if (spacings := _spacings(steps)) is not None:
            batches[len(spacings)].append((number, spacings))
    for batch in batches.values():
        batch.sort(key=lambda entry: len(series[entry[0]]))
        count = max(1, BATCH // len(series[batch[-1][0]]))  # the last is the longest
        for first in range(0, len(batch), count):
            part = batch[first : first + count]
            kinds, before, after = _explain([series[number] for number, _ in part], np.array([s for _, s in part]))
            for row, (number, _) in enumerate(part):
                size = len(series[number])
                yield number, ExplainedSteps(kinds[row, :size], before[row, :size], after[row, :size])


def tolerance(spacing: Any) -> Any:
    """Return by how many mm a step may differ from `spacing` (mm, any shape) and equal it."""
    return np.maximum(TOLERANCE * spacing, TOLERANCE_MM)


def _clusters(values: FloatArray) -> list[tuple[float, int]]:
    """Return the mean and the size of each group of about equal `values`, the smallest first."""
    ordered = np.sort(values)
    ends = np.flatnonzero(np.diff(ordered) > tolerance(ordered[1:])) + 1
    return [(float(part.mean()), len(part)) for part in np.split(ordered, ends)]


def _spacings(step: FloatArray) -> FloatArray | None:
    """Return the possible spacings of a series: steps that repeat, the smallest step, sums of two passes."""
    apart = step[step >= SAME_PLACE]
    if not len(apart):
        return None
    clusters = _clusters(apart)
    found = {value: size for value, size in clusters if size >= 2} | dict(clusters[:1])
    sums = (step[1:] + step[:-1])[(step[1:] >= SAME_PLACE) & (step[:-1] >= SAME_PLACE)]
    for value, size in _clusters(sums) if len(sums) >= 3 else []:
        if size >= 3 and all(abs(value - other) > tolerance(value) for other in found):
            found[value] = size
    return np.array(sorted(sorted(found), key=lambda value: -found[value])[:SPACINGS])


def _explain(series: list[FloatArray], spacing: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray, FloatArray]:
    """Return how each step is explained, and the spacing of the block before and after it, (S, n) each.

    Args:
        series: Steps of S series, of at most n steps.
        spacing: (S, K) possible spacings.
    """
    step = np.full((len(series), max(map(len, series))), np.nan)
    for row, of_series in enumerate(series):
        step[row, : len(of_series)] = of_series
    cost, kind = _costs(step[:, :, None], spacing[:, None, :])
    (count, size), k = step.shape, spacing.shape[1]
    rows = np.arange(count)
    wide = GAP_BETWEEN * np.maximum(spacing[:, :, None], spacing[:, None, :])
    other = np.where(np.eye(k, dtype=bool), np.inf, 0)
    # State: number of changes so far (0, 1, 2 or more), spacing.
    total = np.full((count, 3, k), np.inf)
    total[:, 0] = cost[:, 0]
    origin = np.zeros((size, count, 3, k), np.int8)
    for i in range(1, size):
        regular = cost[:, i] == 0
        between = np.where(step[:, i, None, None] <= wide, BETWEEN, WIDE_BETWEEN)
        between = np.where(regular[:, :, None] | regular[:, None, :], 0, between) + other
        stay = total + cost[:, i, None, :]
        first = total[:, 0, :, None] + FIRST_CHANGE + between
        later = total[:, 1:].min(axis=1)[:, :, None] + LATER_CHANGE + between
        changed = np.stack([np.full((count, k), np.inf), first.min(axis=1), later.min(axis=1)], axis=1)
        level = total[:, 1:].argmin(axis=1) + 1
        from_first, from_later = first.argmin(axis=1), later.argmin(axis=1)
        origins = np.stack(
            [np.zeros_like(from_first), from_first, np.take_along_axis(level, from_later, 1) * k + from_later], axis=1
        )
        origin[i] = np.where(changed < stay, origins, np.arange(3 * k).reshape(3, k))
        total = np.minimum(stay, changed)
    state = total.reshape(count, -1).argmin(axis=1)
    chosen = np.empty((count, size), np.int64)
    for i in range(size - 1, -1, -1):
        chosen[:, i] = state % k
        state = origin[i].reshape(count, -1)[rows, state]
    before = np.column_stack([chosen[:, :1], chosen[:, :-1]])
    kinds = np.take_along_axis(kind, chosen[:, :, None], 2)[:, :, 0]
    kinds[before != chosen] = CHANGE
    return kinds, np.take_along_axis(spacing, before, 1), np.take_along_axis(spacing, chosen, 1)


def _costs(step: FloatArray, spacing: FloatArray) -> tuple[FloatArray, npt.NDArray[np.int8]]:
    """Return the cost and the kind of each step for each spacing, (S, n, K), from (S, n, 1) and (S, 1, K)."""
    within = tolerance(spacing)
    multiple = np.maximum(np.round(np.nan_to_num(step) / spacing), 1)
    near = np.abs(step - spacing) <= within
    missing = (multiple >= 2) & (np.abs(step - multiple * spacing) <= within + 0.01 * multiple * spacing)
    # Adjacent steps of two or three passes add up to the spacing; the steps before and after a pair continue it.
    pair = np.abs(_sums(step, 2) - spacing) <= within
    triple = np.abs(_sums(step, 3) - spacing) <= within
    regular = near | ~(step >= SAME_PLACE)  # NaN behind the end of a series
    continued = pair.copy()
    continued[:, 1:] &= regular[:, :-2] | pair[:, :-1]
    continued[:, :-1] &= regular[:, 2:] | pair[:, 1:]
    of_pair, of_triple, continued = (_covered(where, step < spacing) for where in (pair, triple, continued))
    passes, inner = of_pair | of_triple, np.zeros_like(continued)
    inner[:, 1:-1] = continued[:, 1:-1] & pair[:, :-1] & pair[:, 1:]
    cost = np.full(near.shape, UNKNOWN)
    cost = np.where(missing, np.minimum(HOLE + LONGER_HOLE * (multiple - 2), UNKNOWN), cost)
    between = np.where(inner, PASS, np.where(continued, OUTER_PASS, LONE_PASS))
    between = np.where(np.abs(step / spacing - 0.5) < 0.1, MIDWAY_PASS, between)
    cost = np.where(passes, between, cost)
    cost = np.where(near | (step < SAME_PLACE) | np.isnan(step), 0, cost)
    kind = np.full(near.shape, UNEXPLAINED, np.int8)
    for name, where in ((BETWEEN_PASSES, passes), (MISSING, missing), (ON_SPACING, near), (SAME, step < SAME_PLACE)):
        kind[np.broadcast_to(where, near.shape)] = name
    return cost, kind


def _sums(step: FloatArray, count: int) -> FloatArray:
    """Return the sums of `count` consecutive steps, (S, n - count + 1, ...)."""
    size = max(step.shape[1] - count + 1, 0)
    return np.asarray(sum(step[:, first : first + size] for first in range(count)), np.float64)


def _covered(sums: npt.NDArray[np.bool_], steps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which `steps` (S, n, K) are part of one of the `sums` (S, n - count + 1, K)."""
    size = sums.shape[1]
    covered = np.zeros_like(steps)
    for first in range(steps.shape[1] - size + 1):
        covered[:, first : first + size] |= sums
    return covered & steps


def _flags(step: FloatArray, explained: ExplainedSteps) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which steps of a series are gaps and overlaps, (n,) each."""
    kind, before, after = explained.kind, explained.before, explained.after
    least = np.fmin(np.append(np.nan, step[:-1]), np.append(step[1:], np.nan))
    with np.errstate(invalid="ignore"):
        overlap = (step >= SAME_PLACE) & (step < OVERLAP_UNDER * np.fmin(np.fmin(before, after), least))
    overlap &= np.isfinite(least)
    block = np.cumsum(kind == CHANGE)
    for i in map(int, np.flatnonzero(overlap)):
        sides = {int(block[max(i - 1, 0)]), int(block[i])}
        overlap[i] = all(_is_regular(step, kind, after, (block == side) & (kind != CHANGE), i) for side in sides)
    gap = ((kind == UNEXPLAINED) & (step > GAP_OVER * after)) | (kind == MISSING)
    gap |= (kind == CHANGE) & (step > GAP_BETWEEN * np.maximum(before, after))
    gap[1:] &= ~overlap[:-1]
    gap[:-1] &= ~overlap[1:]
    return gap, overlap


def _is_regular(
    step: FloatArray, kind: npt.NDArray[np.int8], after: FloatArray, block: npt.NDArray[np.bool_], small: int
) -> bool:
    """Return whether the steps of `block` are regular enough to call the step `small` an overlap.

    They are if the spacing itself repeats often, or if there are few other steps, which are no multiples of one
    smaller spacing. In a random subset of the slices, all steps are multiples of the spacing of the complete series.
    """
    if not block.any():
        return False
    spacing, steps = after[block][0], step[block & (step >= SAME_PLACE)]
    exact, passes = int((kind[block] == ON_SPACING).sum()), int((kind[block] == BETWEEN_PASSES).sum())
    irregular = int(np.isin(kind[block], (MISSING, UNEXPLAINED)).sum())
    if exact >= OFTEN:
        return exact + passes >= irregular
    if exact + passes / 2 < 3 or exact + passes < 4 * irregular:
        return False
    others = steps[np.abs(steps - spacing) > tolerance(spacing)]
    if len(others) and len(_clusters(others)) > 2:
        return False
    multiples = steps / min(step[small], steps.min())
    if (np.abs(multiples - np.round(multiples)) > 0.1).any():
        return True
    return bool(exact + passes >= OFTEN and multiples.max() > 4.5)
