"""Blend weights: the point of the simplex that minimises the weighted log loss of the mixed probabilities.

Other blending methods are in `ichx.evaluation.blend_methods`; `docs/decisions/blend-solver.md` says why the solver is
not SciPy's. The problem is convex, so it is solved, not searched. With q_ik the probability that member k gives to the
truth of entry i and a_i the entry's weight (summing to 1), the loss is f(w) = -sum_i a_i log(sum_k w_k q_ik).
Since f(c w) = f(w) - log c, the minimum of f(w) + sum_k w_k over w >= 0 is on the simplex; that leaves only sign
constraints, which a primal-dual interior-point Newton method handles in a few dozen steps. A step reads the entries
once, block by block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.errors import InvalidInputError
from ichx.evaluation.logistic import single_blas_thread
from ichx.evaluation.metric import CLIP, FloatArray, entry_weights
from ichx.labels import LABEL_WEIGHTS

GAP = 1e-9
"""Largest certificate of a solution: how far its loss may be above the optimum."""

_MAX_STEPS = 200
_MAX_NEWTON = 8
_BLOCK = 8_192
"""Entries per block: they fit a core's cache."""


@dataclass(frozen=True)
class Blend:
    """The optimal weights of a convex blend."""

    weights: FloatArray
    """`(K,)`, on the simplex."""
    loss: float
    certificate: float
    """max_k sum_i a_i q_ik / m_i - 1 with the mixture m: bounds how far `loss` is above the optimum."""


def truth_probabilities(
    labels: npt.ArrayLike, members: Sequence[npt.ArrayLike], label_weights: Sequence[float] = LABEL_WEIGHTS
) -> tuple[FloatArray, FloatArray]:
    """Return `(q, a)`: the clipped probability that members give to the truth, `(entries, K)`, and entry weights.

    `labels` is `(N, L)` in 0..1, or NaN for entries to leave out; each member is `(N, L)` probabilities. A soft label
    counts as both truths, in its shares.
    """
    y, by_label = np.asarray(labels, dtype=np.float64), np.asarray(label_weights)
    weight = np.broadcast_to(by_label / (by_label.sum() * len(y)), y.shape).ravel()
    flat = y.ravel()
    known: slice | npt.NDArray[np.bool_] = slice(None)
    if (unknown := np.isnan(y)).any():
        known = ~unknown.ravel()
        shares = by_label * entry_weights(y) * (~unknown).any(axis=0)
        weight = np.broadcast_to(shares, y.shape).ravel()[known]
        flat, weight = flat[known], weight / weight.sum()
    negative = flat == 0.0
    p = np.empty((len(members), flat.size))
    for row, member in zip(p, members, strict=True):
        np.clip(np.asarray(member, dtype=np.float64).ravel()[known], CLIP, 1.0 - CLIP, out=row)
    if (negative | (flat == 1.0)).all():
        for row in p:
            np.subtract(1.0, row, out=row, where=negative)
        return p.T, weight
    return np.concatenate([p, 1.0 - p], axis=1).T, np.concatenate([weight * flat, weight * (1.0 - flat)])


def mix(members: Sequence[npt.ArrayLike], weights: npt.ArrayLike) -> FloatArray:
    """Return the weighted mean of the members' clipped probabilities.

    `weights` are `(K,)`, or `(K, 6)` with a column per label.
    """
    total: FloatArray = np.zeros(np.shape(members[0]), dtype=np.float64)
    for member, weight in zip(members, np.asarray(weights, dtype=np.float64), strict=True):
        total += weight * np.clip(np.asarray(member, dtype=np.float64), CLIP, 1.0 - CLIP)
    return total


def solve(
    labels: npt.ArrayLike,
    members: Sequence[npt.ArrayLike],
    label_weights: Sequence[float] = LABEL_WEIGHTS,
    *,
    start: FloatArray | None = None,
) -> Blend:
    """Return the optimal blend.

    Args:
        labels: `(N, L)` in 0..1.
        members: Probabilities of each member, `(N, L)`.
        label_weights: Weight of each label in the loss.
        start: Weights on the simplex, `(K,)`, near the optimum: they save most of the work.

    Raises:
        InvalidInputError: There is nothing to blend, or the solver does not reach its certificate.
    """
    if not members or not np.size(labels):
        raise InvalidInputError("There is nothing to blend.", "Pass at least one member with predictions.")
    q, a = truth_probabilities(labels, members, label_weights)
    with single_blas_thread():
        weights = None if start is None else _newton(q, a, start)
        if weights is None:
            weights = _interior_point(q, a)
            loss, alone = _loss(q, a, weights), np.array([_loss(q, a, vertex) for vertex in np.eye(q.shape[1])])
            corner = np.eye(q.shape[1])[int(np.argmin(alone))]
            if alone.min() <= loss and _certificate(q, a, corner) <= GAP:
                weights = corner  # the interior-point method ends next to a corner
        return _without_traces(q, a, weights)


def _without_traces(q: FloatArray, a: FloatArray, weights: FloatArray) -> Blend:
    """Return the blend with its smallest weights set to zero where its certificate allows it."""
    certificate = _certificate(q, a, weights)
    if certificate > GAP:
        raise InvalidInputError(
            f"The blend did not converge: its certificate is {certificate:.1e}, above {GAP:.0e}.",
            "Leave out members that are nearly equal to each other.",
        )
    for trace in (1e-3, 1e-4, 1e-5, 1e-6):
        if not ((weights > 0) & (weights < trace)).any():
            continue
        without = np.where(weights < trace, 0.0, weights)
        without /= without.sum()
        if (found := _certificate(q, a, without)) <= GAP:
            return Blend(without, _loss(q, a, without), found)
    return Blend(weights, _loss(q, a, weights), certificate)


def _blocks(entries: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, entries, _BLOCK))


def _loss(q: FloatArray, a: FloatArray, weights: FloatArray) -> float:
    return -sum(float(a[block] @ np.log(weights @ q[block].T)) for block in _blocks(len(a)))


def _certificate(q: FloatArray, a: FloatArray, weights: FloatArray) -> float:
    """Return an upper bound of how far the loss of `weights`, on the simplex, is above the optimum."""
    pull = np.zeros(len(weights))
    for block in _blocks(len(a)):
        pull += q[block].T @ (a[block] / (weights @ q[block].T))
    return float(pull.max() - 1.0)


def _pull_and_curvature(q: FloatArray, a: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the negative gradient `(K,)` of the loss at `w`, and its Hessian `(K, K)`."""
    pull, curvature = np.zeros(len(w)), np.zeros((len(w), len(w)))
    for block in _blocks(len(a)):
        root = np.sqrt(a[block])
        scaled = q[block].T * (root / (w @ q[block].T))  # contiguous: q is stored member by member
        pull += scaled @ root
        curvature += scaled @ scaled.T
    return pull, curvature


def _interior_point(q: FloatArray, a: FloatArray) -> FloatArray:
    """Return the minimiser of -a.log(q w) + sum(w) over w >= 0, scaled to the simplex."""
    members = q.shape[1]
    w = np.full(members, 1.0 / members)
    z = np.full(members, 1.0)
    best, best_certificate = w, np.inf
    for _ in range(_MAX_STEPS):
        pull, hessian = _pull_and_curvature(q, a, w)
        certificate = float(np.max(pull) * w.sum() - 1.0)  # of w scaled to the simplex
        if certificate < best_certificate:
            best, best_certificate = w, certificate
        if certificate <= GAP / 10 or (w @ z / members < 1e-14 and certificate <= GAP):
            break
        mu = 0.1 * (w @ z) / members
        step_w = np.linalg.lstsq(hessian + np.diag(z / w), pull - 1.0 + mu / w, rcond=None)[0]
        step_z = mu / w - z - z / w * step_w
        w = w + _step_length(w, step_w) * step_w
        z = z + _step_length(z, step_z) * step_z
    weights = np.where(best < 1e-12, 0.0, best)
    scaled: FloatArray = weights / weights.sum()
    return scaled


def _newton(q: FloatArray, a: FloatArray, start: FloatArray) -> FloatArray | None:
    """Return the same minimiser by projected Newton steps from `start`, or None if they do not reach it.

    Weights at zero move only if the gradient increases them.
    """
    w = start
    for _ in range(_MAX_NEWTON):
        pull, hessian = _pull_and_curvature(q, a, w)
        if np.max(pull) * w.sum() - 1.0 <= GAP / 10:
            weights: FloatArray = w / w.sum()
            return weights
        free = np.flatnonzero((w > 0) | (pull > 1.0))
        step = np.zeros(len(w))
        step[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], pull[free] - 1.0, rcond=None)[0]
        w = np.maximum(w + step, 0.0)
        if not w.any():
            return None
    return None


def _step_length(point: FloatArray, step: FloatArray) -> float:
    """Return the longest step in [0, 1] that leaves `point` positive, with a margin."""
    falling = step < 0
    return min(1.0, 0.995 * float(np.min(-point[falling] / step[falling]))) if falling.any() else 1.0
