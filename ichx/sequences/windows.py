"""Windows of at most 64 slices: longer series are divided into overlapping ones, whose predictions are merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

LONGEST: Final = 64
"""Slices of a window; a study rarely has more."""
STEP: Final = 32
"""Slices from one window to the next, at most."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeriesWindow:
    """A part of a series: all of it, if it is short enough."""

    series: int
    start: int
    slices: IntArray
    """Rows of the slices in the data, in order."""

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Weight of each slice's prediction: the middle of a window knows both sides of a slice."""
        place = np.arange(len(self.slices))
        return np.minimum(place + 1, len(self.slices) - place).astype(np.float64)


def windows_of(series: Sequence[IntArray]) -> list[SeriesWindow]:
    """Return the windows of all series, in their order; those of one series overlap evenly."""
    found: list[SeriesWindow] = []
    for number, slices in enumerate(series):
        spare = max(len(slices) - LONGEST, 0)
        count = -(-spare // STEP) + 1
        starts = np.linspace(0, spare, count).round().astype(int).tolist()
        found += [
            SeriesWindow(number, start, np.asarray(slices[start : start + LONGEST], np.int64)) for start in starts
        ]
    return found
