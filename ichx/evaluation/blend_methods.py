"""The ways of making one prediction out of several members': each fitted on slices with labels, applied to any.

`docs/blending.md` has the formulas and their sources. Not for what follows the blend (`ichx.evaluation.smoothing`,
`ichx.evaluation.calibration`) or for choosing a method (`ichx.evaluation.nested_score`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ichx.evaluation import blend
from ichx.evaluation.calibration import Isotonic, fit_isotonic
from ichx.evaluation.logistic import fit_logistic, logits
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.series_neighbours import Heads
from ichx.evaluation.smoothing import neighbours_mean
from ichx.labels import LABEL_WEIGHTS, LABELS

GREEDY_PICKS = 50
"""How many picks greedy selection makes; its best beginning counts."""
RANK_KNOTS = 2049
"""Points that keep a member's distribution, half of them in its highest hundredth, where the positives are."""
STACK_REACH = 2
"""How many neighbours on either side a stack sees."""

Members = Mapping[int, FloatArray]
"""Probabilities `(N, 6)` by the member's place among the candidates."""

_LABEL_WEIGHTS = np.asarray(LABEL_WEIGHTS)


@dataclass(frozen=True)
class LinearPool:
    """The weighted mean of probabilities: `weights` (K, 6) of the `members`, a column per label summing to 1.

    `certificate` bounds the distance of the loss to the optimum, where the weights are one.
    """

    members: tuple[int, ...]
    weights: FloatArray
    certificate: float | None = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: the mean over labels, weighted like the score."""
        found: FloatArray = self.weights @ _LABEL_WEIGHTS / _LABEL_WEIGHTS.sum()
        return found

    def apply(self, members: Members, heads: Heads) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return blend.mix([members[k] for k in self.members], self.weights)


@dataclass(frozen=True)
class LogitPool:
    """The weighted sum of logits, `weights` (K,) >= 0; their sum is one over a temperature."""

    members: tuple[int, ...]
    weights: FloatArray
    certificate: float | None = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`."""
        return self.weights

    def apply(self, members: Members, heads: Heads) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return probabilities(sum(w * logits(members[k]) for k, w in zip(self.members, self.weights, strict=True)))


@dataclass(frozen=True)
class RankPool:
    """The mean of ranks among the slices it was fitted on, made a probability by a non-decreasing map.

    `knots` (K, RANK_KNOTS, 6) are the members' quantiles at the levels `levels`.
    """

    members: tuple[int, ...]
    levels: FloatArray
    knots: FloatArray
    map: Isotonic
    certificate: float | None = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: equal."""
        return np.full(len(self.members), 1.0 / len(self.members))

    def ranks(self, members: Members) -> FloatArray:
        """Return the mean rank `(N, 6)` in 0..1; slices with equal predictions share the middle one of theirs."""
        total = np.zeros((len(members[self.members[0]]), len(LABELS)))
        for k, knots in zip(self.members, self.knots, strict=True):
            for column in range(len(LABELS)):
                points, start = np.unique(knots[:, column], return_index=True)
                end = np.append(start[1:], len(knots)) - 1
                middle = 0.5 * (self.levels[start] + self.levels[end])
                total[:, column] += np.interp(members[k][:, column], points, middle)
        return total / len(self.members)

    def apply(self, members: Members, heads: Heads) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return self.map.apply(self.ranks(members), heads)


@dataclass(frozen=True)
class Stack:
    """A logistic regression per label, `coefficients` (6, P), on the features of `_stack_features`."""

    members: tuple[int, ...]
    coefficients: FloatArray
    certificate: float | None = None

    @property
    def shares(self) -> FloatArray:
        """The pull of each member, `(K,)`: its coefficients of one label, its neighbours' with it, summed."""
        own = self.coefficients[:, : len(self.members) * (STACK_REACH + 1)]
        by_label = own.reshape(len(LABELS), len(self.members), STACK_REACH + 1).sum(axis=2)
        found: FloatArray = _LABEL_WEIGHTS @ by_label / _LABEL_WEIGHTS.sum()
        return found

    def apply(self, members: Members, heads: Heads) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        z = [logits(members[k]) for k in self.members]
        columns = [
            sum(c * f for c, f in zip(self.coefficients[label], _stack_features(z, heads, label), strict=True))
            for label in range(len(LABELS))
        ]
        return probabilities(np.stack(columns, axis=1))


Pool = LinearPool | LogitPool | RankPool | Stack


def _mean(members: Members, labels: FloatArray, heads: Heads) -> LinearPool:
    return LinearPool(tuple(members), np.full((len(members), len(LABELS)), 1.0 / len(members)))


def _convex(members: Members, labels: FloatArray, heads: Heads) -> LinearPool:
    return _convex_pool(members, blend.solve(labels, list(members.values())))


def _convex_pool(members: Members, solved: blend.Blend) -> LinearPool:
    kept = np.flatnonzero(solved.weights)
    return LinearPool(
        tuple(np.array(list(members))[kept].tolist()),
        np.tile(solved.weights[kept, None], len(LABELS)),
        solved.certificate,
    )


def _per_label(members: Members, labels: FloatArray, heads: Heads) -> LinearPool:
    """Fit weights for each label; the certificate is the labels' worst."""
    solved = [
        blend.solve(labels[:, [k]], [p[:, [k]] for p in members.values()], label_weights=(1.0,))
        for k in range(len(LABELS))
    ]
    weights = np.stack([s.weights for s in solved], axis=1)
    kept = np.flatnonzero(weights.any(axis=1))
    return LinearPool(tuple(np.array(list(members))[kept].tolist()), weights[kept], max(s.certificate for s in solved))


def _greedy(members: Members, labels: FloatArray, heads: Heads) -> LinearPool:
    q, a = blend.truth_probabilities(labels, list(members.values()))
    picks = np.zeros(q.shape[1])
    sum_of_picked = np.zeros(len(a))
    best, lowest = picks, np.inf
    for count in range(1, GREEDY_PICKS + 1):
        losses = [-float(a @ np.log((sum_of_picked + q[:, k]) / count)) for k in range(q.shape[1])]
        chosen = int(np.argmin(losses))
        picks[chosen] += 1
        sum_of_picked += q[:, chosen]
        if losses[chosen] < lowest:
            best, lowest = picks.copy(), losses[chosen]
    kept = np.flatnonzero(best)
    weights = best[kept] / best.sum()
    return LinearPool(tuple(np.array(list(members))[kept].tolist()), np.tile(weights[:, None], len(LABELS)))


def _logit(members: Members, labels: FloatArray, heads: Heads) -> LogitPool:
    features = [logits(p).ravel() for p in members.values()]
    weights = np.broadcast_to(_LABEL_WEIGHTS, labels.shape).ravel()
    even = np.full(len(features), 1.0 / len(features))
    found = fit_logistic(features, labels.ravel(), weights, towards=even, positive=True)
    kept = np.flatnonzero(found) if found.any() else np.array([0])  # without any use: one half for every slice
    return LogitPool(tuple(np.array(list(members))[kept].tolist()), found[kept])


def _rank(members: Members, labels: FloatArray, heads: Heads) -> RankPool:
    half = RANK_KNOTS // 2
    levels = np.concatenate([np.linspace(0.0, 0.99, half, endpoint=False), np.linspace(0.99, 1.0, RANK_KNOTS - half)])
    knots = np.stack([np.quantile(p, levels, axis=0) for p in members.values()])
    unmapped = RankPool(tuple(members), levels, knots, Isotonic((), ()))
    return RankPool(tuple(members), levels, knots, fit_isotonic(unmapped.ranks(members), labels, heads))


def _stack(members: Members, labels: FloatArray, heads: Heads) -> Stack:
    z = [logits(p) for p in members.values()]
    rows = []
    for label in range(len(LABELS)):
        features = _stack_features(z, heads, label)
        even = np.zeros(len(features))
        even[: len(z) * (STACK_REACH + 1) : STACK_REACH + 1] = 1.0 / len(z)
        rows.append(fit_logistic(features, labels[:, label], towards=even))
    return Stack(tuple(members), np.stack(rows))


def _stack_features(z: Sequence[FloatArray], heads: Heads, label: int) -> list[FloatArray]:
    """Return what a stack of members with logits `z` sees of each slice, features `(N,)`.

    By member: its logit of the label, and the means of the neighbours' by distance. Then the members' mean logit of
    each other label, the number of missing neighbours, and 1.
    """
    features = []
    for one in z:
        column = one[:, [label]]
        features.append(column[:, 0])
        features += [neighbours_mean(column, heads, distance)[:, 0] for distance in range(1, STACK_REACH + 1)]
    others: FloatArray = sum(z[1:], start=z[0].copy()) / len(z)
    features += [others[:, k] for k in range(len(LABELS)) if k != label]
    return [*features, heads.missing.astype(np.float64), np.ones(len(heads.series))]


FITS: Final[Mapping[str, Callable[[Members, FloatArray, Heads], Pool]]] = {
    "convex": _convex,
    "mean": _mean,
    "rank": _rank,
    "logit": _logit,
    "greedy": _greedy,
    "per-label": _per_label,
    "stack": _stack,
}
"""Every method's fit: from members `(N, 6)` each, labels `(N, 6)` and neighbours to what it blends with."""


def fit_pool(method: str, members: Members, labels: FloatArray, heads: Heads, *, near: Sequence[Pool] = ()) -> Pool:
    """Return the pool that `method`, a key of `FITS`, fits to the members' probabilities.

    `near` are fits of the same to parts of these slices, of which `convex` has most of its work done.
    """
    if method == "convex" and near:
        weights = np.zeros(len(members))
        place = {k: at for at, k in enumerate(members)}
        for pool in near:
            weights[[place[k] for k in pool.members]] += pool.shares / len(near)
        return _convex_pool(members, blend.solve(labels, list(members.values()), near=weights))
    return FITS[method](members, labels, heads)
