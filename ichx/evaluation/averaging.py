"""Means of predictions over views and folds: of their logits, or of their probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np

from ichx.evaluation.choices import Average
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import LABEL_SHARES, FloatArray, probabilities
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.series_neighbours import SeriesNeighbours


def mean_of(parts: Sequence[FloatArray], average: Average) -> FloatArray:
    """Return the mean `(N, 6)` of probabilities, each `(N, 6)`; that of one part is the part itself."""
    if len(parts) == 1:
        return parts[0]
    if average == "probability":
        mean: FloatArray = np.mean(parts, axis=0)
        return mean
    total: FloatArray = sum((logits(p) for p in parts[1:]), start=logits(parts[0]))
    return probabilities(total / len(parts))


def averaging_gain(networks: Sequence[FloatArray]) -> float:
    """Return by how much the mean of the logits scores lower than single networks do on average. It needs no labels.

    The log loss of a logit z is A(z) - y z, A(z) = log(1 + exp z). The part with the label y is linear in z, so it does
    not change the difference: mean A(z_k) - A(mean z_k).

    Args:
        networks: The probabilities `(N, 6)` of each network, for slices that none of them was trained on.
    """
    z = np.stack([logits(p) for p in networks])
    gains = np.logaddexp(0.0, z).mean(axis=0) - np.logaddexp(0.0, z.mean(axis=0))
    return float(gains.mean(axis=0) @ LABEL_SHARES)


def blend_folds(
    fitted: FittedBlend,
    members: Mapping[int, Mapping[int, FloatArray]],
    neighbours: SeriesNeighbours,
    average: Average,
) -> FloatArray:
    """Return the blended probabilities `(N, 6)` of slices that several folds predict.

    The blend was fitted to predictions of single networks. With `logit` it is therefore applied to those of each fold,
    and the logits of the results are averaged. With `probability` it is applied to the mean over folds.

    Args:
        fitted: The blend.
        members: Probabilities `(N, 6)` by fold, of each member by its place among the candidates; all have the same
            folds.
        neighbours: The neighbours of the N slices.
        average: What is averaged.
    """
    if average == "probability":
        return fitted.apply({k: mean_of(list(folds.values()), average) for k, folds in members.items()}, neighbours)
    return mean_of(blend_each_fold(fitted, members, neighbours), average)


def blend_each_fold(
    fitted: FittedBlend, members: Mapping[int, Mapping[int, FloatArray]], neighbours: SeriesNeighbours
) -> list[FloatArray]:
    """Return the blended probabilities `(N, 6)` of each fold; arguments are those of `blend_folds`."""
    folds = next(iter(members.values()))
    return [fitted.apply({k: of[fold] for k, of in members.items()}, neighbours) for fold in folds]
