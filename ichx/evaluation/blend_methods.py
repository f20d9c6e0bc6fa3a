"""Blending methods: ways to combine several members' predictions, each fitted on labelled slices, applied to any.

`docs/blending.md` has the formulas and their sources. What follows the blend is in `ichx.evaluation.smoothing` and
`ichx.evaluation.calibration`, the choice of a method in `ichx.evaluation.nested_score`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ichx.evaluation import blend
from ichx.evaluation.calibration import Isotonic, fit_isotonic
from ichx.evaluation.logistic import fit_logistic, model_logits, varying
from ichx.evaluation.metric import FloatArray, entry_weights, probabilities
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import neighbours_mean
from ichx.labels import LABEL_WEIGHTS, LABELS

GREEDY_PICKS = 50
"""Number of picks of greedy selection."""
RANK_KNOTS = 2049
"""Quantiles that describe a member's distribution, half of them in its highest hundredth, where the positives are."""
STACK_RADIUS = 2
"""Largest distance of a neighbour that a stack sees."""

Members = Mapping[int, FloatArray]
"""Probabilities `(N, 6)` by the member's place among the candidates."""

_LABEL_WEIGHTS = np.asarray(LABEL_WEIGHTS)


@dataclass(frozen=True)
class LinearPool:
    """The weighted mean of probabilities."""

    members: tuple[int, ...]
    weights: FloatArray
    """`(K, 6)`, a column per label summing to 1."""
    certificate: float | None = None
    """Upper bound of how far the loss is above the optimum, if the method finds one."""

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: the mean over labels, weighted like the score."""
        shares: FloatArray = self.weights @ _LABEL_WEIGHTS / _LABEL_WEIGHTS.sum()
        return shares

    def apply(self, members: Members, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return blend.mix([members[k] for k in self.members], self.weights)


@dataclass(frozen=True)
class LogitPool:
    """The weighted sum of logits."""

    members: tuple[int, ...]
    weights: FloatArray
    """`(K,)`, or `(K, 6)` with a column per label; not negative. Their sum is one over a temperature."""
    certificate: ClassVar[None] = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: of weights by label, the mean weighted like the score."""
        by_label = self.weights if self.weights.ndim == 2 else np.tile(self.weights[:, None], len(LABELS))
        shares: FloatArray = by_label @ _LABEL_WEIGHTS / _LABEL_WEIGHTS.sum()
        return shares

    def apply(self, members: Members, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return probabilities(sum(w * model_logits(members[k]) for k, w in zip(self.members, self.weights, strict=True)))


@dataclass(frozen=True)
class RankPool:
    """The mean rank among the slices that the pool was fitted on, mapped to a probability."""

    members: tuple[int, ...]
    levels: FloatArray
    """`(RANK_KNOTS,)` in 0..1."""
    knots: FloatArray
    """Quantiles of each member and label at `levels`, `(K, RANK_KNOTS, 6)`."""
    map: Isotonic
    certificate: ClassVar[None] = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: equal."""
        return np.full(len(self.members), 1.0 / len(self.members))

    def ranks(self, members: Members) -> FloatArray:
        """Return the mean rank `(N, 6)` in 0..1; slices with equal predictions share the middle one of their ranks."""
        total = np.zeros((len(members[self.members[0]]), len(LABELS)))
        for k, knots in zip(self.members, self.knots, strict=True):
            for column in range(len(LABELS)):
                points, start = np.unique(knots[:, column], return_index=True)
                end = np.append(start[1:], len(knots)) - 1
                middle = 0.5 * (self.levels[start] + self.levels[end])
                total[:, column] += np.interp(members[k][:, column], points, middle)
        return total / len(self.members)

    def apply(self, members: Members, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        return self.map.apply(self.ranks(members), neighbours)


@dataclass(frozen=True)
class Stack:
    """A logistic regression per label on the features of `_stack_features`."""

    members: tuple[int, ...]
    coefficients: FloatArray
    """`(6, P)`"""
    certificate: ClassVar[None] = None

    @property
    def shares(self) -> FloatArray:
        """The weight of each member, `(K,)`: the sum of its coefficients, mean over labels weighted like the score."""
        own = self.coefficients[:, : len(self.members) * (STACK_RADIUS + 1)]
        by_label = own.reshape(len(LABELS), len(self.members), STACK_RADIUS + 1).sum(axis=2)
        shares: FloatArray = _LABEL_WEIGHTS @ by_label / _LABEL_WEIGHTS.sum()
        return shares

    def apply(self, members: Members, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the blended probabilities `(N, 6)`."""
        z = [model_logits(members[k]) for k in self.members]
        columns = [
            sum(c * f for c, f in zip(self.coefficients[label], _stack_features(z, neighbours, label), strict=True))
            for label in range(len(LABELS))
        ]
        return probabilities(np.stack(columns, axis=1))

    @classmethod
    def mean(cls, stacks: Sequence["Stack"]) -> "Stack":
        """Return the stack of the same members whose logits are the mean of those of `stacks`."""
        return cls(stacks[0].members, np.mean([s.coefficients for s in stacks], axis=0))


Pool = LinearPool | LogitPool | RankPool | Stack


def fit_pool(
    method: str,
    members: Members,
    labels: FloatArray,
    neighbours: SeriesNeighbours,
    rows_per_patient: float = 1.0,
    *,
    similar: Sequence[Pool] = (),
) -> Pool:
    """Fit a pool.

    Args:
        method: A method other than `auto`.
        members: Probabilities of each member, `(N, 6)`.
        labels: `(N, 6)` in 0..1.
        neighbours: The neighbours of the N slices.
        rows_per_patient: Strength of the ridge of a regression, in rows: slices of one patient are no independent
            observations.
        similar: Pools of the same method, fitted to parts of these slices: `convex` starts from their mean.
    """
    if method == "convex" and similar:
        start = np.zeros(len(members))
        place = {k: at for at, k in enumerate(members)}
        for pool in similar:
            start[[place[k] for k in pool.members]] += pool.shares / len(similar)
        return _convex(members, labels, neighbours, rows_per_patient, start)
    return _FITS[method](members, labels, neighbours, rows_per_patient)


def _mean(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> LinearPool:
    return LinearPool(tuple(members), np.full((len(members), len(LABELS)), 1.0 / len(members)))


def _convex(
    members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float, start: FloatArray | None = None
) -> LinearPool:
    solved = blend.solve(labels, list(members.values()), start=start)
    return _linear_pool(members, np.tile(solved.weights[:, None], len(LABELS)), solved.certificate)


def _per_label(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> LinearPool:
    solved = [
        blend.solve(labels[:, [k]], [p[:, [k]] for p in members.values()], label_weights=(1.0,))
        if known
        else blend.Blend(np.full(len(members), 1.0 / len(members)), 0.0, 0.0)
        for k, known in enumerate(np.asarray((~np.isnan(labels)).any(axis=0)))
    ]
    weights = np.stack([s.weights for s in solved], axis=1)
    return _linear_pool(members, weights, max(s.certificate for s in solved))


def _greedy(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> LinearPool:
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
    return _linear_pool(members, np.tile((best / best.sum())[:, None], len(LABELS)))


def _linear_pool(members: Members, weights: FloatArray, certificate: float | None = None) -> LinearPool:
    """Return the pool of the members that have a weight."""
    used = np.flatnonzero(weights.any(axis=1))
    return LinearPool(tuple(list(members)[k] for k in used), weights[used], certificate)


def _logit(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> LogitPool:
    features = [model_logits(p).ravel() for p in members.values()]
    weights = np.broadcast_to(_LABEL_WEIGHTS * entry_weights(labels), labels.shape).ravel()
    even = np.full(len(features), 1.0 / len(features))
    fitted = fit_logistic(features, labels.ravel(), weights, towards=even, strength=ridge * len(LABELS), positive=True)
    return _logit_pool(members, fitted)


def _per_label_logit(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> LogitPool:
    z = [model_logits(p) for p in members.values()]
    even = np.full(len(z), 1.0 / len(z))
    columns = [
        fit_logistic([m[:, k] for m in z], labels[:, k], towards=even, strength=ridge, positive=True)
        if varied
        else even
        for k, varied in enumerate(varying(labels))
    ]
    return _logit_pool(members, np.stack(columns, axis=1))


def _logit_pool(members: Members, weights: FloatArray) -> LogitPool:
    """Return the pool of the members that have a weight; if none is useful, one member with weight 0."""
    used = np.flatnonzero(weights.any(axis=1) if weights.ndim > 1 else weights)
    used = used if len(used) else np.array([0])
    return LogitPool(tuple(list(members)[k] for k in used), weights[used])


def _rank(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> RankPool:
    half = RANK_KNOTS // 2
    levels = np.concatenate([np.linspace(0.0, 0.99, half, endpoint=False), np.linspace(0.99, 1.0, RANK_KNOTS - half)])
    knots = np.stack([np.quantile(p, levels, axis=0) for p in members.values()])
    unmapped = RankPool(tuple(members), levels, knots, Isotonic((), ()))
    return RankPool(tuple(members), levels, knots, fit_isotonic(unmapped.ranks(members), labels, neighbours))


def _stack(members: Members, labels: FloatArray, neighbours: SeriesNeighbours, ridge: float) -> Stack:
    z = [model_logits(p) for p in members.values()]
    rows = []
    for label, varied in enumerate(varying(labels)):
        features = _stack_features(z, neighbours, label)
        even = np.zeros(len(features))
        even[: len(z) * (STACK_RADIUS + 1) : STACK_RADIUS + 1] = 1.0 / len(z)
        strength = np.append(np.full(len(features) - 1, ridge), 1.0)
        rows.append(fit_logistic(features, labels[:, label], towards=even, strength=strength) if varied else even)
    return Stack(tuple(members), np.stack(rows))


def _stack_features(z: Sequence[FloatArray], neighbours: SeriesNeighbours, label: int) -> list[FloatArray]:
    """Return the features of a stack, each `(N,)`, from the members' logits `z`.

    For each member, its logit of the label and the means of its neighbours' by distance; then the members' mean logit
    of each other label, the number of missing neighbours, and 1.
    """
    features = []
    for member in z:
        column = member[:, [label]]
        features.append(column[:, 0])
        features += [neighbours_mean(column, neighbours, distance)[:, 0] for distance in range(1, STACK_RADIUS + 1)]
    others: FloatArray = sum(z[1:], start=z[0].copy()) / len(z)
    features += [others[:, k] for k in range(len(LABELS)) if k != label]
    return [*features, neighbours.missing.astype(np.float64), np.ones(len(neighbours.run))]


_FITS: Final[Mapping[str, Callable[[Members, FloatArray, SeriesNeighbours, float], Pool]]] = {
    "convex": _convex,
    "mean": _mean,
    "rank": _rank,
    "logit": _logit,
    "greedy": _greedy,
    "per-label": _per_label,
    "per-label-logit": _per_label_logit,
    "stack": _stack,
}
