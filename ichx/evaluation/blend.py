"""Blend weights: the point of the simplex that minimises the weighted log loss of mixed probabilities.

The problem is convex, so it is solved and not searched. With q the probability that a member gives to the truth of an
entry and a that entry's weight (summing to 1), the loss is f(w) = -sum_i a_i log(sum_k w_k q_ik). Minimising
f(w) + sum_k w_k over w >= 0 has its optimum on the simplex, for f(c w) = f(w) - log c; that leaves only sign
constraints, which a primal-dual interior-point Newton method handles in a few dozen steps. A step reads the entries
once, block by block, so that it needs no memory beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ichx.errors import IchxError
from ichx.evaluation.metric import CLIP, FloatArray
from ichx.labels import LABEL_WEIGHTS

GAP = 1e-9
"""The certificate that a solution must reach; it bounds the distance of its loss to the optimum."""

_MAX_STEPS = 200
_MAX_NEWTON = 8
_BLOCK = 8_192
"""Entries that are worked on at once: few enough to stay in a core's cache."""


@dataclass(frozen=True)
class Blend:
    """Weights `(K,)` on the simplex, their loss, and the certificate max_k sum_i a_i q_ik / m_i - 1."""

    weights: FloatArray
    loss: float
    certificate: float


def truth_probabilities(labels: npt.ArrayLike, members: Sequence[npt.ArrayLike]) -> tuple[FloatArray, FloatArray]:
    """Return `(q, a)`: the clipped probability given to the truth, `(entries, K)`, and the entries' weights.

    `labels` is `(N, 6)` in 0..1, each member `(N, 6)` probabilities. A soft label counts as both truths, in its shares.
    """
    return _truth(labels, members, np.asarray(LABEL_WEIGHTS))


def _truth(
    labels: npt.ArrayLike, members: Sequence[npt.ArrayLike], label_weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    y = np.asarray(labels, dtype=np.float64)
    weight = np.broadcast_to(label_weights / (label_weights.sum() * len(y)), y.shape).ravel()
    flat = y.ravel()
    negative = flat == 0.0
    hard = negative | (flat == 1.0)
    p = np.empty((len(members), flat.size))
    for row, member in zip(p, members, strict=True):
        np.clip(np.asarray(member, dtype=np.float64).ravel(), CLIP, 1.0 - CLIP, out=row)
    if hard.all():
        for row in p:
            np.subtract(1.0, row, out=row, where=negative)
        return p.T, weight
    return np.concatenate([p, 1.0 - p], axis=1).T, np.concatenate([weight * flat, weight * (1.0 - flat)])


def mix(members: Sequence[npt.ArrayLike], weights: npt.ArrayLike) -> FloatArray:
    """Return the weighted mean of the members' probabilities, each clipped before mixing.

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
    near: FloatArray | None = None,
) -> Blend:
    """Return the optimal blend of `members`, each `(N, L)` probabilities, on `(N, L)` labels.

    Weights `near` (K,) the optimum, on the simplex, save most of the work; the certificate is the same. Raises
    `IchxError` when there is nothing to blend or the method does not reach its certificate.
    """
    if not members or not np.size(labels):
        raise IchxError("there is nothing to blend", "give at least one member with predictions")
    q, a = _truth(labels, members, np.asarray(label_weights))
    with threadpool_limits(1, "blas"):  # threads that wait for each other at every block take longer
        weights = None if near is None else _newton(q, a, near)
        return _solve(q, a) if weights is None else _certified(q, a, weights)


def _solve(q: FloatArray, a: FloatArray) -> Blend:
    vertices = np.eye(q.shape[1])
    weights = _interior_point(q, a)
    alone = np.array([_loss(q, a, vertex) for vertex in vertices])
    loss = _loss(q, a, weights)
    corner = vertices[int(np.argmin(alone))]
    if alone.min() <= loss and _certificate(q, a, corner) <= GAP:
        weights = corner  # The method ends just beside a corner: one member alone is no worse.
    return _certified(q, a, weights)


def _certified(q: FloatArray, a: FloatArray, weights: FloatArray) -> Blend:
    loss, certificate = _loss(q, a, weights), _certificate(q, a, weights)
    if certificate > GAP:
        raise IchxError(
            f"the blend did not converge: certificate {certificate:.1e} instead of {GAP:.0e}",
            "leave out members that are nearly equal to each other",
        )
    return Blend(*_without_traces(q, a, weights, loss, certificate))


def _without_traces(
    q: FloatArray, a: FloatArray, weights: FloatArray, loss: float, certificate: float
) -> tuple[FloatArray, float, float]:
    """Return the point with its smallest weights set to zero, where the certificate holds without them."""
    for trace in (1e-3, 1e-4, 1e-5, 1e-6):
        if not ((weights > 0) & (weights < trace)).any():
            continue
        kept = np.where(weights < trace, 0.0, weights)
        kept /= kept.sum()
        if (found := _certificate(q, a, kept)) <= GAP:
            return kept, _loss(q, a, kept), found
    return weights, loss, certificate


def _blocks(entries: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, entries, _BLOCK))


def _loss(q: FloatArray, a: FloatArray, weights: FloatArray) -> float:
    return -sum(float(a[block] @ np.log(weights @ q[block].T)) for block in _blocks(len(a)))


def _certificate(q: FloatArray, a: FloatArray, weights: FloatArray) -> float:
    """Return how far the loss of `weights`, which lie on the simplex, is from the optimum at most."""
    pull = np.zeros(len(weights))
    for block in _blocks(len(a)):
        pull += q[block].T @ (a[block] / (weights @ q[block].T))
    return float(pull.max() - 1.0)


def _pull_and_curvature(q: FloatArray, a: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return minus the gradient `(K,)` of the loss at `w`, and its Hessian `(K, K)`."""
    pull, curvature = np.zeros(len(w)), np.zeros((len(w), len(w)))
    for block in _blocks(len(a)):
        root = np.sqrt(a[block])
        scaled = q[block].T * (root / (w @ q[block].T))  # contiguous: q is kept member by member
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
        certificate = float(np.max(pull) * w.sum() - 1.0)  # at w scaled to the simplex
        if certificate < best_certificate:
            best, best_certificate = w, certificate
        if certificate <= GAP / 10 or (w @ z / members < 1e-14 and certificate <= GAP):
            break
        mu = 0.1 * (w @ z) / members
        step_w = np.linalg.lstsq(hessian + np.diag(z / w), pull - 1.0 + mu / w, rcond=None)[0]
        step_z = mu / w - z - z / w * step_w
        w = w + _reach(w, step_w) * step_w
        z = z + _reach(z, step_z) * step_z
    kept = np.where(best < 1e-12, 0.0, best)
    weights: FloatArray = kept / kept.sum()
    return weights


def _newton(q: FloatArray, a: FloatArray, near: FloatArray) -> FloatArray | None:
    """Return the same minimiser on the simplex by projected Newton steps from `near`; None where they do not reach it.

    Of the weights at zero only those move whose gradient calls for more of them.
    """
    w = near
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


def _reach(point: FloatArray, step: FloatArray) -> float:
    """Return the longest step in [0, 1] that keeps `point` positive, with a margin."""
    falling = step < 0
    return min(1.0, 0.995 * float(np.min(-point[falling] / step[falling]))) if falling.any() else 1.0
