"""The blend as one pipeline (members, method, smoothing, calibration, clipping) and its nested score.

`BlendPipeline.fit` makes every data-driven choice on some of the folds; `FittedBlend.apply` applies the result to any
slices. The nested score fits on all folds but one and applies to that one, in turn; `docs/decisions/nested-score.md`
says why. A submission uses the fit on all folds. Within a fit, alternatives are compared in the same way on its own
(inner) folds, and one is taken only if its gain is more than one standard error of a bootstrap over patients.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Final, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from ichx.errors import raise_problems
from ichx.evaluation.blend_methods import Members, Pool, fit_pool
from ichx.evaluation.bootstrap import mean_interval
from ichx.evaluation.calibration import Consistent, fit_bounds, fit_isotonic, fit_temperature, fit_temperatures
from ichx.evaluation.choices import Method
from ichx.evaluation.metric import FloatArray, row_losses, score, weighted_row_losses
from ichx.evaluation.series_neighbours import IntArray, SeriesNeighbours
from ichx.evaluation.smoothing import fit_kernels
from ichx.labels import LABEL_WEIGHTS
from ichx.text import format_count

DRAWS = 200
"""Draws of the bootstrap over patients for the standard error of a gain."""

Progress = Callable[[int, int], None]
"""Called with the folds done and the number of folds."""


class BlendStep(Protocol):
    """A fitted step that follows the pool."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the changed probabilities `(N, 6)`."""
        ...


_Fit = Callable[[FloatArray, FloatArray, SeriesNeighbours], BlendStep]
_STEPS: Final[dict[str, dict[str, _Fit]]] = {
    "smoothing": {"kernels": fit_kernels},
    "calibration": {"temperature": fit_temperature, "temperatures": fit_temperatures, "isotonic": fit_isotonic},
    "consistency": {"any >= subtypes": lambda p, labels, neighbours: Consistent()},
    "clipping": {"bounds": fit_bounds},
}
"""The steps that may follow the pool, in this order, each with its alternatives, the simplest first."""


@dataclass(frozen=True)
class BlendData:
    """Labelled slices with the predictions of all candidates."""

    members: tuple[FloatArray, ...]
    """Probabilities of each candidate, `(N, 6)`."""
    labels: FloatArray
    """`(N, 6)`"""
    neighbours: SeriesNeighbours
    patients: IntArray
    """Patient of each slice, numbered from 0, `(N,)`."""
    folds: IntArray
    """Fold of each slice, `(N,)`."""

    def take(self, rows: IntArray, members: Iterable[int]) -> Members:
        """Return the predictions of some `members` on `rows`, without a copy if these are all rows."""
        predicted = self.members
        return {k: predicted[k] if len(rows) == len(predicted[k]) else predicted[k].take(rows, axis=0) for k in members}


@dataclass(frozen=True)
class BlendOptions:
    """What a pipeline may choose from."""

    method: Method = "auto"
    top: int | None = None
    """How many of the best candidates are blended; None: all."""
    smooth: bool = False
    calibrate: bool = True

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that may follow the pool."""
        return ("smoothing",) * self.smooth + ("calibration", "consistency", "clipping") * self.calibrate


@dataclass(frozen=True)
class Alternative:
    """An alternative for one part of the pipeline, compared with what was chosen before."""

    part: str
    name: str
    against: str
    """Name of what it is compared with."""
    gain: float
    """Decrease of the score on the inner folds."""
    error: float | None
    """Standard error of the gain; None with too few patients."""

    @property
    def taken(self) -> bool:
        """Whether the gain is more than one standard error."""
        return self.error is not None and self.gain > self.error


@dataclass(frozen=True)
class FittedBlend:
    """A fitted pipeline."""

    method: str
    candidates: tuple[int, ...]
    """Members that the pool was fitted to; some may have no weight."""
    pool: Pool
    steps: dict[str, BlendStep]
    """What follows the pool, by step."""
    alternatives: tuple[Alternative, ...]

    def apply(self, members: Members, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the blended probabilities `(N, 6)` of slices with these predictions and neighbours."""
        p = self.pool.apply(members, neighbours)
        for step in self.steps.values():
            p = step.apply(p, neighbours)
        return p


@dataclass(frozen=True)
class NestedResult:
    """Nested predictions and their score."""

    predicted: FloatArray
    """Each slice as predicted by the fit on the other folds, `(N, 6)`."""
    score: float
    fits: dict[int, FittedBlend]
    """The fit that predicted each fold."""


class BlendPipeline:
    """Fits a blend on any of the folds of its data. Pools are cached by the slices that they were fitted on."""

    def __init__(self, data: BlendData, options: BlendOptions) -> None:
        """Raise `InvalidInputError`, listing all problems, unless all members are probabilities of these slices."""
        _check(data)
        self.data, self.options = data, options
        self._groups = 2 * data.folds + _halves(data.patients, data.folds)
        self._folds = {int(k) for k in np.flatnonzero(np.bincount(data.folds))}
        self._pools: dict[tuple[str, frozenset[int], tuple[int, ...]], Pool] = {}

    def fit(self, folds: Iterable[int] | None = None) -> FittedBlend:
        """Return the blend that is chosen on `folds`; None: on all."""
        wanted = self._folds if folds is None else set(folds)
        groups = frozenset(int(g) for g in np.flatnonzero(np.bincount(self._groups)) if g // 2 in wanted)
        with threadpool_limits(1, "blas"):  # set once, as threads that restore the limit concurrently corrupt it
            method, chosen, alternatives = self._choose(groups)
            pool = self._pool(method, groups)
            steps = self._fit_steps(pool, chosen, groups)
            return FittedBlend(method, self._best_candidates(groups), pool, steps, alternatives)

    def nested(self, progress: Progress | None = None) -> NestedResult | None:
        """Return the nested predictions and their score, or None if there is only one fold."""
        folds = sorted(self._folds)
        if len(folds) < 2:
            return None
        predicted, fits = np.empty_like(self.data.labels), {}
        for done, fold in enumerate(folds):
            if progress is not None:
                progress(done, len(folds))
            fits[fold] = self.fit(set(folds) - {fold})
            rows = np.flatnonzero(self.data.folds == fold)
            predicted[rows] = self.apply(fits[fold], rows)
        if progress is not None:
            progress(len(folds), len(folds))
        return NestedResult(predicted, score(self.data.labels, predicted), fits)

    def apply(self, fitted: FittedBlend, rows: IntArray | None = None) -> FloatArray:
        """Return the blended probabilities of some `rows`, in ascending order, or of all."""
        inside = np.arange(len(self.data.labels)) if rows is None else rows
        return fitted.apply(self.data.take(inside, fitted.pool.members), self.data.neighbours.take(inside))

    def _choose(self, groups: frozenset[int]) -> tuple[str, dict[str, str], tuple[Alternative, ...]]:
        """Return the method, the chosen alternative of each step and all alternatives, compared on the inner folds."""
        method = "mean" if self.options.method == "auto" else self.options.method
        inner = _inner_folds(groups)
        if len(inner) < 2 or not (self.options.steps or self.options.method == "auto"):
            return method, {}, ()
        folds = [_InnerFold(self.data, self._rows(groups - held), self._rows(held)) for held in inner]
        patients = np.concatenate([self.data.patients[fold.held] for fold in folds])
        alternatives: list[Alternative] = []

        def is_taken(part: str, name: str, against: str, new: FloatArray, old: FloatArray) -> bool:
            gain = mean_interval(old - new, patients, draws=DRAWS)
            assert gain.value is not None
            alternatives.append(Alternative(part, name, against, gain.value, gain.standard_error))
            return alternatives[-1].taken

        def losses_of(held: list[FloatArray]) -> FloatArray:
            return np.concatenate([fold.losses(p) for fold, p in zip(folds, held, strict=True)])

        def pools_of(name: str) -> tuple[list[Pool], list[FloatArray]]:
            pools = [self._pool(name, groups - held) for held in inner]
            return pools, [self._apply_pool(pool, fold.held) for pool, fold in zip(pools, folds, strict=True)]

        pools, held = pools_of(method)
        losses = losses_of(held)
        if self.options.method == "auto" and len(self._best_candidates(groups)) > 1:
            convex_pools, convex = pools_of("convex")
            if is_taken("method", "convex", "mean", convex_losses := losses_of(convex), losses):
                method, pools, held, losses = "convex", convex_pools, convex, convex_losses
        chosen: dict[str, str] = {}
        if not self.options.steps:
            return method, chosen, tuple(alternatives)
        fitted = [self._apply_pool(pool, fold.fitted) for pool, fold in zip(pools, folds, strict=True)]
        for part in self.options.steps:
            before, current, steps = held, "none", None
            for name, fit in _STEPS[part].items():
                with ThreadPoolExecutor(len(folds)) as threads:  # NumPy releases Python's lock for most of it
                    results = list(threads.map(_InnerFold.fit_and_apply, folds, repeat(fit), fitted, before))
                new_steps, new = [step for step, _ in results], [p for _, p in results]
                if is_taken(part, name, current, new_losses := losses_of(new), losses):
                    chosen[part], current, steps, held, losses = name, name, new_steps, new, new_losses
            if steps is not None:
                fitted = [s.apply(p, fold.neighbours) for s, p, fold in zip(steps, fitted, folds, strict=True)]
        return method, chosen, tuple(alternatives)

    def _fit_steps(self, pool: Pool, chosen: dict[str, str], groups: frozenset[int]) -> dict[str, BlendStep]:
        """Return the chosen steps, each fitted to `groups` as the steps before it leave them."""
        steps: dict[str, BlendStep] = {}
        if not chosen:
            return steps
        rows = self._rows(groups)
        neighbours, labels = self.data.neighbours.take(rows), self.data.labels[rows]
        p = self._apply_pool(pool, rows)
        for part, name in chosen.items():
            steps[part] = _STEPS[part][name](p, labels, neighbours)
            p = steps[part].apply(p, neighbours)
        return steps

    def _pool(self, method: str, groups: frozenset[int], candidates: tuple[int, ...] | None = None) -> Pool:
        """Return the pool fitted to `groups`; `candidates` are those that the groups choose if None."""
        members = self._best_candidates(groups) if candidates is None else candidates
        key = (method, groups, members)
        if key not in self._pools:
            folds = _inner_folds(groups) if method == "convex" and len({group // 2 for group in groups}) > 1 else []
            similar = [self._pool(method, fold, members) for fold in folds]
            rows = self._rows(groups)
            predicted, neighbours = self.data.take(rows, members), self.data.neighbours.take(rows)
            self._pools[key] = fit_pool(method, predicted, self.data.labels[rows], neighbours, similar=similar)
        return self._pools[key]

    def _apply_pool(self, pool: Pool, rows: IntArray) -> FloatArray:
        return pool.apply(self.data.take(rows, pool.members), self.data.neighbours.take(rows))

    def _best_candidates(self, groups: frozenset[int]) -> tuple[int, ...]:
        """Return the candidates with the best scores on `groups`, the first of equal ones."""
        if self.options.top is None or self.options.top >= len(self.data.members):
            return tuple(range(len(self.data.members)))
        sums = self._group_losses[:, sorted(groups)].sum(axis=1)
        return tuple(sorted(int(k) for k in np.argsort(sums, kind="stable")[: self.options.top]))

    @cached_property
    def _group_losses(self) -> FloatArray:
        """The candidates' summed losses in each group, `(K, groups)`."""
        losses = [row_losses(self.data.labels, p) @ np.asarray(LABEL_WEIGHTS) for p in self.data.members]
        return np.stack([np.bincount(self._groups, loss) for loss in losses])

    def _rows(self, groups: frozenset[int]) -> IntArray:
        wanted = np.zeros(self._groups.max() + 1, bool)
        wanted[list(groups)] = True
        return np.flatnonzero(wanted[self._groups])


class _InnerFold:
    """The rows that are `fitted` and those that are `held` out, each with its neighbours."""

    def __init__(self, data: BlendData, fitted: IntArray, held: IntArray) -> None:
        self.fitted, self.held = fitted, held
        self.labels, self.held_labels = data.labels[fitted], data.labels[held]
        self.neighbours, self.held_neighbours = data.neighbours.take(fitted), data.neighbours.take(held)

    def fit_and_apply(self, fit: _Fit, fitted: FloatArray, held: FloatArray) -> tuple[BlendStep, FloatArray]:
        """Return a step, fitted to the predictions `fitted`, and what it makes of the predictions `held`."""
        step = fit(fitted, self.labels, self.neighbours)
        return step, step.apply(held, self.held_neighbours)

    def losses(self, p: FloatArray) -> FloatArray:
        """Return the weighted loss of each held-out row, of which `p` (H, 6) are predictions."""
        return weighted_row_losses(self.held_labels, p)


def _check(data: BlendData) -> None:
    problems = []
    for number, p in enumerate(data.members, 1):
        if p.shape != data.labels.shape:
            problems.append(f"Member {number} has {len(p):,} slices instead of {len(data.labels):,}.")
            continue
        nan, outside = int(np.isnan(p).sum()), int(((p < 0) | (p > 1)).sum())
        problems += [f"Member {number} has {format_count(nan, 'value')} NaN."] if nan else []
        problems += [f"Member {number} has {format_count(outside, 'value')} outside 0..1."] if outside else []
    if not data.members or not len(data.labels):
        problems.append("There is nothing to blend.")
    raise_problems(problems, "Pass each member's probabilities of the same slices.")


def _halves(patients: IntArray, folds: IntArray) -> IntArray:
    """Return 0 or 1 for each row: the patients of each fold are assigned alternately to its two halves."""
    half = np.empty(len(patients), np.int64)
    for fold in np.flatnonzero(np.bincount(folds)):
        inside = patients[folds == fold]
        present = np.bincount(inside) > 0
        half[folds == fold] = (np.cumsum(present)[inside] - 1) % 2
    return half


def _inner_folds(groups: frozenset[int]) -> list[frozenset[int]]:
    """Return the groups that are held out in turn: the folds, or the halves if there is one fold only."""
    folds = sorted({group // 2 for group in groups})
    if len(folds) == 1:
        return [frozenset([group]) for group in sorted(groups)]
    return [frozenset(group for group in groups if group // 2 == fold) for fold in folds]
