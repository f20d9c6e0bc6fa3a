"""Logistic regressions with few features and many rows: the solver of temperatures, kernels, logit pools and stacks.

`docs/decisions/logistic-regression.md` says why it is not scikit-learn's. It minimises
sum_i a_i (log(1 + exp(x_i w)) - y_i x_i w) + ridge / 2 |w - towards|^2, the a_i scaled to sum to 1, by Newton's method
with step halving. Coefficients that must not be negative are fixed at zero while the gradient pushes them below
(projected Newton method; Bertsekas, SIAM J. Control Optim. 20, 1982). The solver is deterministic and reads the rows
block by block.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from ichx.errors import InvalidInputError
from ichx.evaluation.metric import CLIP, FloatArray

TOLERANCE = 1e-10
"""Largest absolute gradient of a solution, in units of the loss."""

MODEL_CLIP = 1e-7
"""Models of logits see probabilities clipped to [MODEL_CLIP, 1 - MODEL_CLIP]: a network of another tool may report 0 or
1, whose logit at the clip of the score would outweigh all other slices."""

_MAX_STEPS = 100
_MAX_HALVINGS = 20
_BLOCK = 8_192
_SAMPLE_STEP = 16
"""From `_MANY` rows on, every sixteenth row is solved first: its solution is a good start."""
_MANY = 2**17
_NOISE = 1e-13
"""Relative decrease of the loss that is lost in rounding."""


def logits(p: npt.ArrayLike) -> FloatArray:
    """Return log(p / (1 - p)) of clipped probabilities."""
    clipped = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0 - CLIP)
    logit: FloatArray = np.log(clipped) - np.log1p(-clipped)
    return logit


def model_logits(p: npt.ArrayLike) -> FloatArray:
    """Return the logits that models of logits are fitted on and applied to, at most log(1 / MODEL_CLIP) in size."""
    return logits(np.clip(np.asarray(p, dtype=np.float64), MODEL_CLIP, 1.0 - MODEL_CLIP))


def single_blas_thread() -> AbstractContextManager[object]:
    """Limit BLAS to one thread, which is faster on small blocks; nothing else may change the limit meanwhile."""
    limited: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limited


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # the search for libraries takes milliseconds


def varying(labels: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which columns of `labels` (N, 6) vary, `(6,)`: from a constant label only certainty can be learned.

    NaN is an unknown label."""
    if not np.isnan(labels).any():
        return np.asarray((labels != labels[:1]).any(axis=0))
    known = (
        np.where(np.isnan(labels), np.inf, labels).min(axis=0),
        np.where(np.isnan(labels), -np.inf, labels).max(axis=0),
    )
    return np.asarray(known[0] < known[1])


def fit_logistic(
    features: Sequence[FloatArray],
    labels: FloatArray,
    weights: FloatArray | None = None,
    *,
    towards: npt.ArrayLike,
    strength: npt.ArrayLike = 1.0,
    positive: bool = False,
) -> FloatArray:
    """Fit a logistic regression without an intercept.

    Args:
        features: P features, each `(N,)`.
        labels: `(N,)` in 0..1; rows where it is NaN are left out.
        weights: Weights of the rows, `(N,)`; equal if None.
        towards: Coefficients that the ridge pulls towards, `(P,)`.
        strength: Strength of the ridge, in rows, for all coefficients or for each, `(P,)`.
        positive: Whether coefficients must not be negative.

    Returns:
        The coefficients, `(P,)`.

    Raises:
        InvalidInputError: The solver does not converge.
    """
    a = np.ones(len(labels)) if weights is None else weights
    if (unknown := np.isnan(labels)).any():
        features, labels, a = [f[~unknown] for f in features], labels[~unknown], a[~unknown]
    centre = np.asarray(towards, np.float64)
    ridge = np.broadcast_to(np.asarray(strength, np.float64), centre.shape)

    def solve(x: Sequence[FloatArray], y: FloatArray, a: FloatArray, start: FloatArray) -> FloatArray:
        return _newton(_Problem(x, y, a / a.sum(), centre, ridge / len(y)), start, positive)

    with single_blas_thread():
        start = centre
        if len(labels) >= _MANY:
            *x, y, weight = (np.ascontiguousarray(values[::_SAMPLE_STEP]) for values in (*features, labels, a))
            start = solve(x, y, weight, start)
        return solve(features, labels, a, start)


def _newton(problem: "_Problem", start: FloatArray, positive: bool) -> FloatArray:
    def feasible(w: FloatArray) -> FloatArray:
        return np.maximum(w, 0.0) if positive else w

    w = start.copy()
    value, gradient, curvature = problem.at(w)
    for _ in range(_MAX_STEPS):
        free = ~((w <= 0) & (gradient > 0)) if positive else np.ones(len(w), bool)
        if not free.any() or np.abs(gradient[free]).max() <= TOLERANCE:
            return w
        step = np.zeros(len(w))
        step[free] = np.linalg.lstsq(curvature[np.ix_(free, free)], gradient[free], rcond=None)[0]
        if gradient @ step <= _NOISE * value:
            return feasible(w - step)
        for halving in range(_MAX_HALVINGS):
            moved = feasible(w - step * 0.5**halving)
            lower, gradient, curvature = problem.at(moved)
            if lower < value:
                w, value = moved, lower
                break
        else:
            return w
    raise InvalidInputError(
        f"A logistic regression on {len(problem.features)} features did not converge in {_MAX_STEPS} steps.",
        "Leave out members that are nearly equal to each other.",
    )


@dataclass(frozen=True)
class _Problem:
    features: Sequence[FloatArray]
    labels: FloatArray
    a: FloatArray
    towards: FloatArray
    ridge: FloatArray

    def at(self, w: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Return the objective at the coefficients `w` (P,), its gradient (P,) and its Hessian (P, P)."""
        away = w - self.towards
        gradient, curvature = self.ridge * away, np.diag(self.ridge)
        value = 0.5 * float(gradient @ away)
        for start in range(0, len(self.labels), _BLOCK):
            block = slice(start, start + _BLOCK)
            x = np.stack([f[block] for f in self.features])
            a, y, z = self.a[block], self.labels[block], w @ x
            small = np.exp(-np.abs(z))
            p = np.where(z >= 0, 1.0, small) / (1.0 + small)
            value += float(a @ (np.maximum(z, 0.0) + np.log(1.0 + small) - y * z))
            gradient += x @ (a * (p - y))
            curvature += (x * (a * small / (1.0 + small) ** 2)) @ x.T
        return value, gradient, curvature
