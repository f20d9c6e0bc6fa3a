"""Blend weights: the point of the simplex that minimises the weighted log loss of mixed probabilities.

The problem is convex, so it is solved and not searched. With q the probability that a member gives to the truth of an
entry and a that entry's weight (summing to 1), the loss is f(w) = -sum_i a_i log(sum_k w_k q_ik). Minimising
f(w) + sum_k w_k over w >= 0 has its optimum on the simplex, for f(c w) = f(w) - log c; that leaves only sign
constraints, which a primal-dual interior-point Newton method handles in a few dozen steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.errors import IchxError
from ichx.evaluation.metric import CLIP
from ichx.labels import LABEL_WEIGHTS

FloatArray = npt.NDArray[np.float64]

GAP = 1e-9
"""The certificate that a solution must reach; it bounds the distance of its loss to the optimum."""

_MAX_STEPS = 200


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
    y = np.asarray(labels, dtype=np.float64)
    share = np.asarray(LABEL_WEIGHTS) / (sum(LABEL_WEIGHTS) * len(y))
    p = np.stack([np.clip(np.asarray(m, dtype=np.float64), CLIP, 1.0 - CLIP).ravel() for m in members], axis=1)
    flat, weight = y.ravel(), np.broadcast_to(share, y.shape).ravel()
    hard = (flat == 0.0) | (flat == 1.0)
    if hard.all():
        return np.where(flat[:, None] == 1.0, p, 1.0 - p), weight.copy()
    return np.concatenate([p, 1.0 - p]), np.concatenate([weight * flat, weight * (1.0 - flat)])


def mix(members: Sequence[npt.ArrayLike], weights: npt.ArrayLike) -> FloatArray:
    """Return the weighted mean of the members' probabilities, each clipped before mixing."""
    total: FloatArray = np.zeros(np.shape(members[0]), dtype=np.float64)
    for member, weight in zip(members, np.asarray(weights, dtype=np.float64), strict=True):
        total += weight * np.clip(np.asarray(member, dtype=np.float64), CLIP, 1.0 - CLIP)
    return total


def solve(labels: npt.ArrayLike, members: Sequence[npt.ArrayLike]) -> Blend:
    """Return the optimal blend of `members`, each `(N, 6)` probabilities, on `(N, 6)` labels.

    Raises `IchxError` when there is nothing to blend or the method does not reach its certificate.
    """
    if not members or not np.size(labels):
        raise IchxError("there is nothing to blend", "give at least one member with predictions")
    q, a = truth_probabilities(labels, members)
    weights = _interior_point(q, a)
    alone = -(a @ np.log(q))
    best = np.eye(len(members))[int(np.argmin(alone))]
    if alone.min() <= -(a @ np.log(q @ weights)) and _certificate(q, a, best) <= GAP:
        weights = best  # the method ends just beside a corner: one member alone is no worse
    mixture = q @ weights
    certificate = _certificate(q, a, weights)
    if certificate > GAP:
        raise IchxError(
            f"the blend did not converge: certificate {certificate:.1e} instead of {GAP:.0e}",
            "leave out members that are nearly equal to each other",
        )
    return Blend(weights, float(-(a @ np.log(mixture))), certificate)


def _certificate(q: FloatArray, a: FloatArray, weights: FloatArray) -> float:
    """Return how far the loss of `weights`, which lie on the simplex, is from the optimum at most."""
    return float(np.max(q.T @ (a / (q @ weights))) - 1.0)


def _interior_point(q: FloatArray, a: FloatArray) -> FloatArray:
    """Return the minimiser of -a.log(q w) + sum(w) over w >= 0, scaled to the simplex."""
    members = q.shape[1]
    w = np.full(members, 1.0 / members)
    z = np.full(members, 1.0)
    best, best_certificate = w, np.inf
    for _ in range(_MAX_STEPS):
        ratio = q / (q @ w)[:, None]
        pull = ratio.T @ a
        certificate = float(np.max(pull) * w.sum() - 1.0)  # at w scaled to the simplex
        if certificate < best_certificate:
            best, best_certificate = w, certificate
        if certificate <= GAP / 10 or (w @ z / members < 1e-14 and certificate <= GAP):
            break
        hessian = ratio.T @ (a[:, None] * ratio)
        mu = 0.1 * (w @ z) / members
        step_w = np.linalg.lstsq(hessian + np.diag(z / w), pull - 1.0 + mu / w, rcond=None)[0]
        step_z = mu / w - z - z / w * step_w
        w = w + _reach(w, step_w) * step_w
        z = z + _reach(z, step_z) * step_z
    kept = np.where(best < 1e-12, 0.0, best)
    weights: FloatArray = kept / kept.sum()
    return weights


def _reach(point: FloatArray, step: FloatArray) -> float:
    """Return the longest step in [0, 1] that keeps `point` positive, with a margin."""
    falling = step < 0
    return min(1.0, 0.995 * float(np.min(-point[falling] / step[falling]))) if falling.any() else 1.0
