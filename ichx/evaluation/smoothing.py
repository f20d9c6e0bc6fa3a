"""Smoothing along the head: draws a slice's logit of a label towards those of its neighbours in the run.

A bleed extends over several slices, so a neighbour's prediction is evidence too. A label's kernel is the logistic
regression of the label on the logits of the slice and its neighbours, with a ridge towards the kernel that changes
nothing. Slices of one patient are no independent observations, so the ridge is a share of one patient. Kernels are
symmetric. Beyond the ends of a run, its first or last slice is repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ichx.evaluation.logistic import fit_logistic, model_logits, varying
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.series_neighbours import SeriesNeighbours

RADIUS = 3
"""Largest distance of a neighbour that counts, in slices."""
RIDGE = 0.1
"""Strength of the ridge in patients; that of the constant is one row (`benchmarks/claims.py`)."""


@dataclass(frozen=True)
class Kernels:
    """A smoothing kernel per label."""

    weights: FloatArray
    """`(6, RADIUS + 2)`: weight of the slice, of the mean of its two neighbours at each distance, and a constant."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the smoothed probabilities `(N, 6)`; a slice that is alone in its run stays as it is."""
        z = model_logits(p)
        smoothed = np.tile(self.weights[:, -1], (len(z), 1))
        smoothed += self.weights[:, 0] * z
        for distance in range(1, RADIUS + 1):
            smoothed += self.weights[:, distance] * neighbours_mean(z, neighbours, distance)
        return np.where(neighbours.alone[:, None], p, probabilities(smoothed))

    @classmethod
    def mean(cls, kernels: Sequence["Kernels"]) -> "Kernels":
        """Return the kernels whose smoothed logits are the mean of those of `kernels`."""
        return cls(np.mean([k.weights for k in kernels], axis=0))

    def __str__(self) -> str:
        return f"a kernel over {2 * RADIUS + 1} slices per label"


def fit_kernels(
    p: FloatArray, labels: FloatArray, neighbours: SeriesNeighbours, rows_per_patient: float = 1.0
) -> Kernels:
    """Return the kernels for probabilities and labels, both `(N, 6)`, with a ridge scaled by `rows_per_patient`.

    A label that does not vary gets the kernel that changes nothing, and so do all if no slice has neighbours.
    """
    unchanged = np.zeros(RADIUS + 2)
    unchanged[0] = 1.0
    rows = ~neighbours.alone
    if not rows.any():
        return Kernels(np.tile(unchanged, (p.shape[1], 1)))
    z = model_logits(p)
    means = [neighbours_mean(z, neighbours, distance)[rows] for distance in range(1, RADIUS + 1)]
    ridge = np.array([RIDGE * rows_per_patient] * (RADIUS + 1) + [1.0])
    own, constant = z[rows], np.ones(int(rows.sum()))
    return Kernels(
        np.stack(
            [
                fit_logistic(
                    [own[:, k], *(m[:, k] for m in means), constant],
                    labels[rows, k],
                    towards=unchanged,
                    strength=ridge,
                )
                if varied
                else unchanged
                for k, varied in enumerate(varying(labels[rows]))
            ]
        )
    )


def neighbours_mean(values: FloatArray, neighbours: SeriesNeighbours, distance: int) -> FloatArray:
    """Return the mean of `values` (N, L) over the two slices that are `distance` away."""
    mean: FloatArray = 0.5 * (values[neighbours.neighbour(-distance)] + values[neighbours.neighbour(distance)])
    return mean
