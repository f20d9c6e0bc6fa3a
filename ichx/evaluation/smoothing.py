"""Smoothing along the head: a slice's logit of a label, drawn to those of its neighbours.

A bleed goes on from slice to slice, so that a neighbour's prediction is evidence too. The kernel of a label has
`RADIUS` + 2 numbers: the weight of the slice itself, of the mean of its two neighbours at each distance up to
`RADIUS`, and a constant; they are the logistic regression of the label on these logits, pulled towards the kernel that
changes nothing. Kernels are symmetric. At the end of a series its last slice stands in for those that would follow.
"""

from dataclasses import dataclass

import numpy as np

from ichx.evaluation.logistic import fit_logistic, logits, varying
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.series_neighbours import Heads

RADIUS = 3


@dataclass(frozen=True)
class Kernels:
    """A kernel per label, `(6, RADIUS + 2)`: own weight, weights of the neighbours' means by distance, constant."""

    weights: FloatArray

    def apply(self, p: FloatArray, heads: Heads) -> FloatArray:
        """Return the smoothed probabilities `(N, 6)`; a slice that is alone in its series stays as it is."""
        z = logits(p)
        smoothed = np.tile(self.weights[:, -1], (len(z), 1))
        smoothed += self.weights[:, 0] * z
        for distance in range(1, RADIUS + 1):
            smoothed += self.weights[:, distance] * neighbours_mean(z, heads, distance)
        return np.where(heads.alone[:, None], p, probabilities(smoothed))

    def __str__(self) -> str:
        return f"a kernel over {2 * RADIUS + 1} slices per label"


def fit_kernels(p: FloatArray, labels: FloatArray, heads: Heads) -> Kernels:
    """Return the kernels for probabilities `(N, 6)` and their labels.

    Those that change nothing where no slice has neighbours, and for a label that does not vary.
    """
    unchanged = np.zeros(RADIUS + 2)
    unchanged[0] = 1.0
    rows = ~heads.alone
    if not rows.any():
        return Kernels(np.tile(unchanged, (p.shape[1], 1)))
    z = logits(p)
    means = [neighbours_mean(z, heads, distance)[rows] for distance in range(1, RADIUS + 1)]
    own, constant = z[rows], np.ones(int(rows.sum()))
    return Kernels(
        np.stack(
            [
                fit_logistic([own[:, k], *(m[:, k] for m in means), constant], labels[rows, k], towards=unchanged)
                if varied
                else unchanged
                for k, varied in enumerate(varying(labels[rows]))
            ]
        )
    )


def neighbours_mean(values: FloatArray, heads: Heads, distance: int) -> FloatArray:
    """Return the mean of `values` (N, L) over the two slices that are `distance` away."""
    mean: FloatArray = 0.5 * (values[heads.neighbour(-distance)] + values[heads.neighbour(distance)])
    return mean
