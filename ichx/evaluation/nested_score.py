"""The blend as one pipeline (members, method, smoothing, calibration, clipping) and its nested score.

`BlendPipeline.fit` makes every data-driven choice on some parts of the patients; `FittedBlend.apply` applies the
result to any slices. The nested score fits on all parts but one and applies to that one, in turn. Parts cross the
folds: each has patients of every fold, for the reasons in `docs/decisions/nested-score.md`. A submission uses the fit
on all parts. Within a fit, alternatives are compared in the same way on its own parts, and one is taken only if its
gain is more than one standard error of a bootstrap over patients.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final, Protocol

import numpy as np

from ichx.errors import raise_problems
from ichx.evaluation.blend_methods import Members, Pool, Stack, fit_pool
from ichx.evaluation.bootstrap import mean_error
from ichx.evaluation.calibration import Consistent, fit_bounds, fit_isotonic, fit_temperature, fit_temperatures
from ichx.evaluation.choices import Method
from ichx.evaluation.logistic import single_blas_thread
from ichx.evaluation.metric import FloatArray, score, weighted_row_losses
from ichx.evaluation.series_neighbours import IntArray, SeriesNeighbours
from ichx.evaluation.smoothing import Kernels, fit_kernels
from ichx.labels import LABELS
from ichx.text import format_count

DRAWS = 200
"""Draws of the bootstrap over patients for the standard error of a gain."""

PARTS: Final = 10
"""Parts of the patients for the nested score."""
PARTS_OF_MANY: Final = 5
MANY_PATIENTS: Final = 1000
"""From this number of patients on there are `PARTS_OF_MANY` parts: four fifths of them suffice for a fit."""

CHOICE_PATIENTS: Final = 5000
"""From twice this number of patients on, alternatives are compared on a sample of at least as many."""

STACK_PATIENTS: Final = 50
"""Fewest patients for which `auto` tries a stack (`benchmarks/claims.py`)."""

Progress = Callable[[int, int], None]
"""Called with the parts done and the number of parts."""


class BlendStep(Protocol):
    """A fitted step that follows the pool."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the changed probabilities `(N, 6)`."""
        ...


_Fit = Callable[[FloatArray, FloatArray, SeriesNeighbours], BlendStep]
_STEPS: Final[dict[str, dict[str, _Fit]]] = {
    "calibration": {"temperature": fit_temperature, "temperatures": fit_temperatures, "isotonic": fit_isotonic},
    "consistency": {"any >= subtypes": lambda p, labels, neighbours: Consistent()},
    "clipping": {"bounds": fit_bounds},
}
"""The steps that may follow smoothing, in this order, each with its alternatives, the simplest first."""


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
    smooth: bool = True
    calibrate: bool = True

    @property
    def calibration_steps(self) -> tuple[str, ...]:
        """The steps that may follow smoothing."""
        return tuple(_STEPS) if self.calibrate else ()


@dataclass(frozen=True)
class Alternative:
    """An alternative for one part of the pipeline, compared with what was chosen before."""

    part: str
    name: str
    against: str
    """Name of what it is compared with."""
    gain: float
    """Decrease of the score on held-out parts."""
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
    """Each slice as predicted by the fit on the other parts, `(N, 6)`."""
    score: float
    fits: dict[int, FittedBlend]
    """The fit that predicted each part."""


class BlendPipeline:
    """Fits a blend on any of the parts of its patients. Pools are cached by the parts that they were fitted on."""

    def __init__(self, data: BlendData, options: BlendOptions, parts: IntArray | None = None) -> None:
        """Raise `InvalidInputError`, listing all problems, unless all members are probabilities of these slices.

        Args:
            data: The slices.
            options: What to choose from.
            parts: Part of each row, `(N,)`; None: `patient_parts`.
        """
        _check(data)
        self.data, self.options = data, options
        self._part = patient_parts(data.patients, data.folds) if parts is None else parts
        self._parts = frozenset(range(int(self._part.max()) + 1))
        self._pools: dict[tuple[str, frozenset[int], tuple[int, ...]], Pool] = {}

    def fit(self, parts: Iterable[int] | None = None) -> FittedBlend:
        """Return the blend that is chosen on some `parts`; None: on all."""
        with single_blas_thread():  # set once, as threads that restore the limit concurrently corrupt it
            return self._fit(self._parts if parts is None else frozenset(parts))

    def nested(self, progress: Progress | None = None) -> NestedResult | None:
        """Return the nested predictions and their score, or None if there is only one fold or one patient."""
        parts = sorted(self._parts)
        if len(parts) < 2 or len(np.unique(self.data.folds)) < 2:
            return None
        predicted, fits = np.empty_like(self.data.labels), {}
        for done, part in enumerate(parts):
            if progress is not None:
                progress(done, len(parts))
            fits[part] = self.fit(self._parts - {part})
            rows = self._rows(frozenset([part]))
            predicted[rows] = self.apply(fits[part], rows)
        if progress is not None:
            progress(len(parts), len(parts))
        return NestedResult(predicted, score(self.data.labels, predicted), fits)

    def apply(self, fitted: FittedBlend, rows: IntArray | None = None) -> FloatArray:
        """Return the blended probabilities `(N, 6)` of some `rows`, in ascending order, or of all."""
        inside = np.arange(len(self.data.labels)) if rows is None else rows
        return fitted.apply(self.data.take(inside, fitted.pool.members), self.data.neighbours.take(inside))

    def _fit(self, parts: frozenset[int]) -> FittedBlend:
        """Return the blend whose choices are made by cross-validation over `parts`."""
        if self._sample is not None:
            return self._refitted(self._sample._fit(parts), parts)
        auto = self.options.method == "auto"
        method, candidates = "mean" if auto else self.options.method, self._best_candidates(parts)
        if len(parts) < 2 or not (auto or self.options.smooth or self.options.calibrate):
            return FittedBlend(method, candidates, self._deployed_pool(method, parts), {}, ())
        rows = self._rows(parts)
        chain = _Chain(self.data, rows, self._part[rows], method, self._held_out(method, rows, parts))
        if auto and len(candidates) > 1:
            for name in ("convex", "logit", "per-label-logit"):
                chain.try_method(name, self._held_out(name, rows, parts))
        if self.options.smooth:
            chain.try_step("smoothing")
        if auto and chain.patients >= STACK_PATIENTS:  # after smoothing: a stack sees neighbours too
            stacked = chain.try_method("stack", self._held_out("stack", rows, parts))
            if stacked and self.options.smooth:
                chain.try_step("smoothing")
        for step in self.options.calibration_steps:
            chain.try_step(step)
        steps = chain.fitted_steps()
        return FittedBlend(chain.method, candidates, self._deployed_pool(chain.method, parts), steps, chain.trials)

    @cached_property
    def _sample(self) -> "BlendPipeline | None":
        """The pipeline that makes the choices, on every n-th patient of each part; None for few patients."""
        patients, first = np.unique(self.data.patients, return_index=True)
        if len(patients) < 2 * CHOICE_PATIENTS:
            return None
        by_part = patients[np.argsort(self._part[first], kind="stable")]
        chosen = np.zeros(int(patients[-1]) + 1, bool)
        chosen[by_part[:: len(patients) // CHOICE_PATIENTS]] = True
        rows = np.flatnonzero(chosen[self.data.patients])
        data = self.data
        members = tuple(p[rows] for p in data.members)
        sample = BlendData(
            members, data.labels[rows], data.neighbours.take(rows), data.patients[rows], data.folds[rows]
        )
        return BlendPipeline(sample, self.options, self._part[rows])

    def _refitted(self, chosen: FittedBlend, parts: frozenset[int]) -> FittedBlend:
        """Return the blend with the choices of another, fitted to all patients of `parts`: too many for a bad fit."""
        rows, pool = self._rows(parts), self._pool(chosen.method, parts)
        labels, neighbours = self.data.labels[rows], self.data.neighbours.take(rows)
        p = pool.apply(self.data.take(rows, pool.members), neighbours)
        steps: dict[str, BlendStep] = {}
        for part, name in {a.part: a.name for a in chosen.alternatives if a.taken and a.part != "method"}.items():
            steps[part] = _step_fits(part, _rows_per_patient(self.data.patients[rows]))[name](p, labels, neighbours)
            p = steps[part].apply(p, neighbours)
        return FittedBlend(chosen.method, self._best_candidates(parts), pool, steps, chosen.alternatives)

    def _held_out(self, method: str, rows: IntArray, parts: frozenset[int]) -> FloatArray:
        """Return the predictions `(N, 6)` of the `rows` in `parts`, each by the pool fitted on the other parts."""
        predicted = np.empty((len(rows), len(LABELS)))
        for part in parts:
            pool, held = self._pool(method, parts - {part}), self._rows(frozenset([part]))
            members, neighbours = self.data.take(held, pool.members), self.data.neighbours.take(held)
            predicted[np.searchsorted(rows, held)] = pool.apply(members, neighbours)
        return predicted

    def _deployed_pool(self, method: str, parts: frozenset[int]) -> Pool:
        """Return the pool for slices outside `parts`; a stack is the mean of those that each leave out one part."""
        if method != "stack" or len(parts) < 2:
            return self._pool(method, parts)
        candidates = self._best_candidates(parts)
        stacks = [self._pool(method, parts - {part}, candidates) for part in sorted(parts)]
        return Stack.mean([stack for stack in stacks if isinstance(stack, Stack)])

    def _pool(self, method: str, parts: frozenset[int], candidates: tuple[int, ...] | None = None) -> Pool:
        """Return the pool fitted to `parts`; `candidates` are those that the parts choose if None."""
        members = self._best_candidates(parts) if candidates is None else candidates
        key = (method, parts, members)
        if key not in self._pools:
            similar = [
                self._pool(method, frozenset([p]), members) for p in parts if method == "convex" and len(parts) > 1
            ]
            rows = self._rows(parts)
            predicted, neighbours = self.data.take(rows, members), self.data.neighbours.take(rows)
            ridge = _rows_per_patient(self.data.patients[rows])
            self._pools[key] = fit_pool(method, predicted, self.data.labels[rows], neighbours, ridge, similar=similar)
        return self._pools[key]

    def _best_candidates(self, parts: frozenset[int]) -> tuple[int, ...]:
        """Return the candidates with the best scores on `parts`, the first of equal ones."""
        if self.options.top is None or self.options.top >= len(self.data.members):
            return tuple(range(len(self.data.members)))
        sums = self._part_losses[:, sorted(parts)].sum(axis=1)
        return tuple(sorted(int(k) for k in np.argsort(sums, kind="stable")[: self.options.top]))

    @cached_property
    def _part_losses(self) -> FloatArray:
        """The candidates' summed losses in each part, `(K, parts)`."""
        losses = [weighted_row_losses(self.data.labels, p) for p in self.data.members]
        return np.stack([np.bincount(self._part, loss) for loss in losses])

    def _rows(self, parts: frozenset[int]) -> IntArray:
        wanted = np.zeros(len(self._parts), bool)
        wanted[list(parts)] = True
        return np.flatnonzero(wanted[self._part])


class _Chain:
    """The choices made so far, with the held-out predictions of all rows of some parts.

    A step is fitted on the held-out predictions of all parts but one and applied to that one, so an overconfident pool
    is seen by the steps that follow it.
    """

    def __init__(self, data: BlendData, rows: IntArray, parts: IntArray, method: str, p: FloatArray) -> None:
        self._labels, self._neighbours = data.labels[rows], data.neighbours.take(rows)
        self._who = data.patients[rows]
        self._splits = [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in np.unique(parts)]
        self.patients = len(np.unique(self._who))
        self.method, self._p = method, p
        self._losses = weighted_row_losses(self._labels, p)
        self._steps: dict[str, tuple[str, FloatArray, list[BlendStep]]] = {}
        self._trials: list[Alternative] = []

    @property
    def trials(self) -> tuple[Alternative, ...]:
        """All alternatives that were tried."""
        return tuple(self._trials)

    def try_method(self, method: str, p: FloatArray) -> bool:
        """Change the method if its held-out predictions `p` gain over all choices so far, whose steps end with it."""
        against = " + ".join([self.method, *(name for name, _, _ in self._steps.values())])
        taken = self._gains("method", method, against, p)
        if taken:
            self.method, self._steps = method, {}
            self._trials = [trial for trial in self._trials if trial.part == "method"]
        return taken

    def try_step(self, part: str) -> None:
        """Try the alternatives of a step on the predictions of the steps before it."""
        before, current = self._p, "none"
        for name, fit in _step_fits(part, _rows_per_patient(self._who)).items():
            with ThreadPoolExecutor() as threads:  # NumPy releases Python's lock for most of it
                steps = list(threads.map(partial(self._fit_on, fit, before), (rows for rows, _ in self._splits)))
            p = np.empty_like(before)
            for step, (_, held) in zip(steps, self._splits, strict=True):
                p[held] = step.apply(before[held], self._neighbours.take(held))
            if self._gains(part, name, current, p):
                self._steps[part], current = (name, before, steps), name

    def fitted_steps(self) -> dict[str, BlendStep]:
        """Return the chosen steps, fitted to all rows; kernels are the mean of those that each leave out one part."""
        fitted: dict[str, BlendStep] = {}
        for part, (name, before, steps) in self._steps.items():
            kernels = [step for step in steps if isinstance(step, Kernels)]
            fit = _step_fits(part, _rows_per_patient(self._who))[name]
            fitted[part] = Kernels.mean(kernels) if kernels else fit(before, self._labels, self._neighbours)
        return fitted

    def _fit_on(self, fit: _Fit, p: FloatArray, rows: IntArray) -> BlendStep:
        return fit(p[rows], self._labels[rows], self._neighbours.take(rows))

    def _gains(self, part: str, name: str, against: str, p: FloatArray) -> bool:
        """Record an alternative that predicts `p`, and return whether it is taken as the current predictions."""
        losses = weighted_row_losses(self._labels, p)
        gain, error = mean_error(self._losses - losses, self._who, draws=DRAWS)
        self._trials.append(Alternative(part, name, against, gain, error))
        if self._trials[-1].taken:
            self._p, self._losses = p, losses
        return self._trials[-1].taken


def patient_parts(patients: IntArray, folds: IntArray) -> IntArray:
    """Return the part of each row, numbered from 0: the patients of each fold are assigned to the parts in turn.

    Every part has patients of every fold, so a fit on some parts has seen each network, as the submitted fit has.
    """
    names, first = np.unique(patients, return_index=True)
    count = PARTS if len(names) < MANY_PATIENTS else PARTS_OF_MANY
    part = np.empty(int(names.max()) + 1, np.int64)
    part[names[np.argsort(folds[first], kind="stable")]] = np.arange(len(names)) % min(count, len(names))
    return part[patients]


def _step_fits(part: str, rows_per_patient: float) -> dict[str, _Fit]:
    """Return the alternatives for a step that may follow the pool, the simplest first."""
    if part == "smoothing":
        return {"kernels": partial(fit_kernels, rows_per_patient=rows_per_patient)}
    return _STEPS[part]


def _rows_per_patient(patients: IntArray) -> float:
    return len(patients) / len(np.unique(patients))


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
    elif np.isnan(data.labels).all():
        problems.append("No slice has a known label, so no weights can be fitted.")
    raise_problems(problems, "Pass each member's probabilities of the same slices.")
