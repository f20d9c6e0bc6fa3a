"""The blend as one pipeline - members, method, smoothing, calibration, clipping - and the score that it may claim.

Everything that is chosen from data is chosen by `Folded.fit` from some of the folds, and frozen; `Fitted.apply` then
takes it to any slices. The nested score fits on all folds but one and applies to that one, in turn; a submission is
made by what was fitted on all of them. Within a fit, alternatives are judged in the same way on its own (inner) folds,
and one is taken only where its gain is more than one standard error of a bootstrap over patients.
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
from ichx.evaluation.blend_methods import FITS, Members, Pool, fit_pool
from ichx.evaluation.bootstrap import mean_interval
from ichx.evaluation.calibration import Consistent, fit_bounds, fit_isotonic, fit_temperature, fit_temperatures
from ichx.evaluation.metric import FloatArray, row_losses, score
from ichx.evaluation.series_neighbours import Heads, IntArray
from ichx.evaluation.smoothing import fit_kernels
from ichx.labels import LABEL_WEIGHTS
from ichx.text import format_count

METHODS: Final = ("auto", *FITS)
DRAWS = 200
"""Draws of the bootstrap over patients that a gain is held against."""

_SHARE = np.asarray(LABEL_WEIGHTS) / sum(LABEL_WEIGHTS)
Report = Callable[[int, int], None]


class Step(Protocol):
    """Something that follows the pool, fitted and frozen."""

    def apply(self, p: FloatArray, heads: Heads) -> FloatArray:
        """Return the changed probabilities `(N, 6)`."""
        ...


_Fit = Callable[[FloatArray, FloatArray, Heads], Step]
_STEPS: Final[dict[str, dict[str, _Fit]]] = {
    "smoothing": {"kernels": fit_kernels},
    "calibration": {"temperature": fit_temperature, "temperatures": fit_temperatures, "isotonic": fit_isotonic},
    "consistency": {"any >= subtypes": lambda p, labels, heads: Consistent()},
    "clipping": {"bounds": fit_bounds},
}
"""What may follow the pool, in this order, with the alternatives to nothing from the simplest on."""


@dataclass(frozen=True)
class Slices:
    """What is blended: `members` (candidates) with probabilities `(N, 6)`, `labels` (N, 6), patients and
    folds as numbers from 0 (N,)."""

    members: tuple[FloatArray, ...]
    labels: FloatArray
    heads: Heads
    patients: IntArray
    folds: IntArray


@dataclass(frozen=True)
class Options:
    """What was asked for: a method of `METHODS`, the best `top` candidates (None: all), and what may follow."""

    method: str = "auto"
    top: int | None = None
    smooth: bool = False
    calibrate: bool = True

    @property
    def steps(self) -> tuple[str, ...]:
        """The keys of what may follow the pool."""
        return ("smoothing",) * self.smooth + ("calibration", "consistency", "clipping") * self.calibrate


@dataclass(frozen=True)
class Trial:
    """An alternative in a part of the blend, held against what stood there before.

    `gain` is by how much it lowers the score on the inner folds, `error` one standard error of that; None where there
    are too few patients to say.
    """

    part: str
    name: str
    against: str
    gain: float
    error: float | None

    @property
    def taken(self) -> bool:
        """Whether the gain is more than one standard error."""
        return self.error is not None and self.gain > self.error


@dataclass(frozen=True)
class Fitted:
    """A frozen blend: the `pool` of `method`, the `steps` that follow by part, and the trials that chose them.

    `candidates` are those that went into the pool, which may have given some of them no weight.
    """

    method: str
    candidates: tuple[int, ...]
    pool: Pool
    steps: dict[str, Step]
    trials: tuple[Trial, ...]

    def apply(self, members: Members, heads: Heads) -> FloatArray:
        """Return the blended probabilities `(N, 6)` of slices with these members' predictions and neighbours."""
        p = self.pool.apply(members, heads)
        for step in self.steps.values():
            p = step.apply(p, heads)
        return p


@dataclass(frozen=True)
class Nested:
    """Predictions `(N, 6)` of each fold by what was fitted on the others, their score, and these fits by fold."""

    predicted: FloatArray
    score: float
    fits: dict[int, Fitted]


class Folded:
    """Slices in their folds, for fits on some of them. A pool that was fitted on the same ones is not fitted again."""

    def __init__(self, slices: Slices, options: Options) -> None:
        """Raise `IchxError` for members that are no probabilities of these slices, with what is wrong and how often."""
        _check(slices)
        self.slices, self.options = slices, options
        self._groups = 2 * slices.folds + _halves(slices.patients, slices.folds)
        self._folds = {int(k) for k in np.flatnonzero(np.bincount(slices.folds))}
        self._pools: dict[tuple[str, frozenset[int], tuple[int, ...]], Pool] = {}

    def fit(self, folds: Iterable[int] | None = None) -> Fitted:
        """Return the blend that some `folds`, or all, choose."""
        wanted = self._folds if folds is None else set(folds)
        groups = frozenset(int(g) for g in np.flatnonzero(np.bincount(self._groups)) if g // 2 in wanted)
        with threadpool_limits(1, "blas"):  # here, for threads that set and reset it on their own leave it at anything
            method, chosen, trials = self._choose(groups)
            pool = self._pool(method, groups)
            return Fitted(method, self._best(groups), pool, self._steps(pool, chosen, groups), trials)

    def nested(self, report: Report | None = None) -> Nested | None:
        """Return the nested predictions; None where there is one fold only."""
        slices = self.slices
        parts = sorted(self._folds)
        if len(parts) < 2:
            return None
        predicted, fits = np.empty_like(slices.labels), {}
        for done, part in enumerate(parts):
            if report is not None:
                report(done, len(parts))
            fits[part] = self.fit(set(parts) - {part})
            rows = np.flatnonzero(slices.folds == part)
            predicted[rows] = self.apply(fits[part], rows)
        if report is not None:
            report(len(parts), len(parts))
        return Nested(predicted, score(slices.labels, predicted), fits)

    def apply(self, fitted: Fitted, rows: IntArray | None = None) -> FloatArray:
        """Return what `fitted` makes of some rows, in ascending order, or of all."""
        inside = np.arange(len(self.slices.labels)) if rows is None else rows
        return fitted.apply(self._members(inside, fitted.pool.members), self.slices.heads.take(inside))

    def _choose(self, groups: frozenset[int]) -> tuple[str, dict[str, str], tuple[Trial, ...]]:
        """Return method, alternatives by part and the trials, judged on the inner folds of `groups`."""
        method = "mean" if self.options.method == "auto" else self.options.method
        inner = _inner(groups)
        if len(inner) < 2 or not (self.options.steps or self.options.method == "auto"):
            return method, {}, ()
        parts = [_Part(self.slices, self._rows(groups - part), self._rows(part)) for part in inner]
        patients = np.concatenate([self.slices.patients[part.held] for part in parts])
        trials: list[Trial] = []

        def taken(part: str, name: str, against: str, new: FloatArray, old: FloatArray) -> bool:
            gain = mean_interval(old - new, patients, draws=DRAWS)
            assert gain.value is not None
            trials.append(Trial(part, name, against, gain.value, gain.standard_error))
            return trials[-1].taken

        def pools(name: str) -> list[Pool]:
            return [self._pool(name, groups - part) for part in inner]

        def judged(outside: list[FloatArray]) -> FloatArray:
            return np.concatenate([part.losses(p) for part, p in zip(parts, outside, strict=True)])

        def held(of: list[Pool]) -> list[FloatArray]:
            return [self._pooled(pool, part.held) for pool, part in zip(of, parts, strict=True)]

        chosen_pools = pools(method)
        outside = held(chosen_pools)
        losses = judged(outside)
        if self.options.method == "auto" and len(self._best(groups)) > 1:
            convex_pools = pools("convex")
            convex = held(convex_pools)
            if taken("method", "convex", "mean", convex_losses := judged(convex), losses):
                method, chosen_pools, outside, losses = "convex", convex_pools, convex, convex_losses
        chosen: dict[str, str] = {}
        if not self.options.steps:
            return method, chosen, tuple(trials)
        inside = [self._pooled(pool, part.fitted) for pool, part in zip(chosen_pools, parts, strict=True)]
        for key in self.options.steps:
            before, standing, steps = outside, "none", None
            for name, fit in _STEPS[key].items():
                with ThreadPoolExecutor(len(parts)) as threads:  # most of it is NumPy's, beside Python's lock
                    tried = list(threads.map(_Part.tried, parts, repeat(fit), inside, before))
                made, after = [step for step, _ in tried], [p for _, p in tried]
                if taken(key, name, standing, after_losses := judged(after), losses):
                    chosen[key], standing, steps, outside, losses = name, name, made, after, after_losses
            if steps is not None:
                inside = [step.apply(p, part.heads) for step, p, part in zip(steps, inside, parts, strict=True)]
        return method, chosen, tuple(trials)

    def _steps(self, pool: Pool, chosen: dict[str, str], groups: frozenset[int]) -> dict[str, Step]:
        """Return the chosen steps, each fitted to what `groups` look like after those before it."""
        steps: dict[str, Step] = {}
        if not chosen:
            return steps
        rows = self._rows(groups)
        heads, labels = self.slices.heads.take(rows), self.slices.labels[rows]
        p = self._pooled(pool, rows)
        for part, name in chosen.items():
            steps[part] = _STEPS[part][name](p, labels, heads)
            p = steps[part].apply(p, heads)
        return steps

    def _pool(self, method: str, groups: frozenset[int]) -> Pool:
        return self._fitted_pool(method, groups, self._best(groups))

    def _fitted_pool(self, method: str, groups: frozenset[int], candidates: tuple[int, ...]) -> Pool:
        key = (method, groups, candidates)
        if key not in self._pools:
            folds = _inner(groups) if method == "convex" and len({group // 2 for group in groups}) > 1 else []
            of_folds = [self._fitted_pool(method, fold, candidates) for fold in folds]
            rows = self._rows(groups)
            self._pools[key] = fit_pool(
                method,
                self._members(rows, candidates),
                self.slices.labels[rows],
                self.slices.heads.take(rows),
                near=of_folds,
            )
        return self._pools[key]

    def _pooled(self, pool: Pool, rows: IntArray) -> FloatArray:
        return pool.apply(self._members(rows, pool.members), self.slices.heads.take(rows))

    def _best(self, groups: frozenset[int]) -> tuple[int, ...]:
        """Return the candidates that `groups` choose, by their score there; among equals the first."""
        if self.options.top is None or self.options.top >= len(self.slices.members):
            return tuple(range(len(self.slices.members)))
        sums = self._losses[:, sorted(groups)].sum(axis=1)
        return tuple(sorted(int(k) for k in np.argsort(sums, kind="stable")[: self.options.top]))

    @cached_property
    def _losses(self) -> FloatArray:
        """The candidates' summed losses in each group, `(K, groups)`."""
        losses = [row_losses(self.slices.labels, p) @ np.asarray(LABEL_WEIGHTS) for p in self.slices.members]
        return np.stack([np.bincount(self._groups, loss) for loss in losses])

    def _rows(self, groups: frozenset[int]) -> IntArray:
        wanted = np.zeros(self._groups.max() + 1, bool)
        wanted[list(groups)] = True
        return np.flatnonzero(wanted[self._groups])

    def _members(self, rows: IntArray, wanted: tuple[int, ...]) -> Members:
        members = self.slices.members
        return {k: members[k] if len(rows) == len(members[k]) else members[k].take(rows, axis=0) for k in wanted}


class _Part:
    """What an inner fold needs: the rows that are `fitted` and those that are `held` out, each with its neighbours."""

    def __init__(self, slices: Slices, fitted: IntArray, held: IntArray) -> None:
        self.fitted, self.held = fitted, held
        self.labels, self.held_labels = slices.labels[fitted], slices.labels[held]
        self.heads, self.held_heads = slices.heads.take(fitted), slices.heads.take(held)

    def tried(self, fit: _Fit, inside: FloatArray, outside: FloatArray) -> tuple[Step, FloatArray]:
        """Return a step as it is fitted to what the fitted rows look like, and what it makes of the held ones."""
        step = fit(inside, self.labels, self.heads)
        return step, step.apply(outside, self.held_heads)

    def losses(self, p: FloatArray) -> FloatArray:
        """Return the weighted loss of each held row, of which `p` (H, 6) are predictions."""
        return row_losses(self.held_labels, p) @ _SHARE


def _check(slices: Slices) -> None:
    problems = []
    for k, p in enumerate(slices.members):
        if p.shape != slices.labels.shape:
            problems.append(f"member {k + 1} has {len(p):,} slices instead of {len(slices.labels):,}")
            continue
        unknown, outside = int(np.isnan(p).sum()), int(((p < 0) | (p > 1)).sum())
        problems += [f"member {k + 1}: {format_count(unknown, 'value')} NaN"] if unknown else []
        problems += [f"member {k + 1}: {format_count(outside, 'value')} outside 0..1"] if outside else []
    if not slices.members or not len(slices.labels):
        problems.append("there is nothing to blend")
    raise_problems(problems, "give each member's probabilities of the same slices")


def _halves(patients: IntArray, folds: IntArray) -> IntArray:
    """Return 0 or 1 by row: the patients of each fold are dealt in turn to its two halves."""
    half = np.empty(len(patients), np.int64)
    for fold in np.flatnonzero(np.bincount(folds)):
        inside = patients[folds == fold]
        there = np.bincount(inside) > 0
        half[folds == fold] = (np.cumsum(there)[inside] - 1) % 2
    return half


def _inner(groups: frozenset[int]) -> list[frozenset[int]]:
    """Return the parts that are held out in turn: the folds, or the halves where there is one fold only."""
    folds = sorted({group // 2 for group in groups})
    if len(folds) == 1:
        return [frozenset([group]) for group in sorted(groups)]
    return [frozenset(group for group in groups if group // 2 == fold) for fold in folds]
