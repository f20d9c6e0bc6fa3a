"""Small logistic regressions on many rows: the one solver behind temperatures, kernels, logit pools and stacks.

It minimises sum_i a_i (log(1 + exp(x_i w)) - y_i x_i w) + ridge / 2 |w - towards|^2, where the a_i are made to sum to
1, by Newton's method with step halving; coefficients that must not be negative are held at zero where the gradient
pushes them there (the projected Newton method of Bertsekas, SIAM J. Control Optim. 20, 1982). Of many rows every
sixteenth is solved first and says where to begin. All is deterministic, and rows are read block by block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ichx.errors import IchxError
from ichx.evaluation.metric import CLIP, FloatArray

TOLERANCE = 1e-10
"""The largest gradient of a solution, in units of the loss."""

_MAX_STEPS = 100
_HALVINGS = 20
_BLOCK = 8_192
_THIN = 16
"""Every how many rows are solved first, where there are `_MANY`."""
_MANY = 2**17
_TOLD = 1e-13
"""The relative decrease below which rounding decides which of two values is lower."""


def logits(p: npt.ArrayLike) -> FloatArray:
    """Return log(p / (1 - p)) of probabilities, clipped before."""
    clipped = np.clip(np.asarray(p, dtype=np.float64), CLIP, 1.0 - CLIP)
    found: FloatArray = np.log(clipped) - np.log1p(-clipped)
    return found


def varying(labels: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which labels (6,) of `(N, 6)` both occur and do not: of others there is only certainty to be learnt."""
    return np.asarray((labels != labels[:1]).any(axis=0))


def fit_logistic(
    features: Sequence[FloatArray],
    labels: FloatArray,
    weights: FloatArray | None = None,
    *,
    towards: npt.ArrayLike,
    strength: float = 1.0,
    positive: bool = False,
) -> FloatArray:
    """Return the coefficients `(P,)` of the P `features`, each `(N,)`, for `labels` `(N,)` in 0..1.

    The ridge pulls them `towards` (P,) with the `strength` of as many rows; rows without `weights` weigh the same.
    `positive` keeps them from being negative. Raises `IchxError` where the method does not converge.
    """
    a = np.ones(len(labels)) if weights is None else weights
    pulled = np.asarray(towards, np.float64)
    with threadpool_limits(1, "blas"):  # threads that wait for each other at every block take longer
        begin = pulled
        if len(labels) >= _MANY:
            *few, y, weighed = (np.ascontiguousarray(values[::_THIN]) for values in (*features, labels, a))
            begin = _newton(_problem(few, y, weighed, pulled, strength), pulled, positive)
        return _newton(_problem(features, labels, a, pulled, strength), begin, positive)


def _problem(
    features: Sequence[FloatArray], labels: FloatArray, a: FloatArray, towards: FloatArray, strength: float
) -> "_Problem":
    return _Problem(features, labels, a / a.sum(), towards, strength / len(labels))


def _newton(problem: "_Problem", begin: FloatArray, positive: bool) -> FloatArray:
    here = problem.at(begin.copy())
    for _ in range(_MAX_STEPS):
        w, gradient = here.w, here.gradient
        free = ~((w <= 0) & (gradient > 0)) if positive else np.ones(len(w), bool)
        if not free.any() or np.abs(gradient[free]).max() <= TOLERANCE:
            return w
        step = np.zeros(len(w))
        step[free] = np.linalg.lstsq(here.curvature[np.ix_(free, free)], gradient[free], rcond=None)[0]
        if gradient @ step <= _TOLD * here.value:
            return np.maximum(w - step, 0.0) if positive else w - step
        moved = _line_search(problem, here, step, positive)
        if moved is None:  # no lower value can be told from this one
            return w
        here = moved
    raise IchxError(
        f"a logistic regression on {len(problem.features)} features did not converge in {_MAX_STEPS} steps",
        "leave out members that are nearly equal to each other",
    )


@dataclass(frozen=True)
class _Point:
    """Coefficients `w` (P,), and there what is minimised, its gradient (P,) and Hessian (P, P)."""

    w: FloatArray
    value: float
    gradient: FloatArray
    curvature: FloatArray


def _line_search(problem: "_Problem", here: _Point, step: FloatArray, positive: bool) -> _Point | None:
    """Return the first of the points w - step, w - step / 2, ... where the value is lower; None where it is nowhere."""
    for halving in range(_HALVINGS):
        w = here.w - step * 0.5**halving
        moved = problem.at(np.maximum(w, 0.0) if positive else w)
        if moved.value < here.value:
            return moved
    return None


class _Problem:
    def __init__(
        self, features: Sequence[FloatArray], labels: FloatArray, a: FloatArray, towards: FloatArray, ridge: float
    ) -> None:
        self.features, self.labels, self.a = features, labels, a
        self.towards, self.ridge = towards, ridge

    def at(self, w: FloatArray) -> _Point:
        """Return the point with the coefficients `w`: one pass over the rows."""
        away = w - self.towards
        value = 0.5 * self.ridge * float(away @ away)
        gradient, curvature = self.ridge * away, self.ridge * np.eye(len(w))
        for start in range(0, len(self.labels), _BLOCK):
            block = slice(start, start + _BLOCK)
            x = np.stack([f[block] for f in self.features])
            a, y, z = self.a[block], self.labels[block], w @ x
            small = np.exp(-np.abs(z))
            p = np.where(z >= 0, 1.0, small) / (1.0 + small)
            value += float(a @ (np.maximum(z, 0.0) + np.log(1.0 + small) - y * z))
            gradient += x @ (a * (p - y))
            curvature += (x * (a * small / (1.0 + small) ** 2)) @ x.T
        return _Point(w, value, gradient, curvature)
