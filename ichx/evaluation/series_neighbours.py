"""Neighbouring slices: slices of one series in the order of their positions."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeriesNeighbours:
    """The neighbours of N slices: those that follow each other in a series, even if slices between them are missing."""

    series: IntArray
    """Series of each slice as a number, `(N,)`."""
    order: IntArray
    """Place of each slice in its series, `(N,)`."""

    @classmethod
    def of(cls, slices: pd.DataFrame) -> "SeriesNeighbours":
        """Return the neighbours of a catalog's rows."""
        codes = pd.factorize(slices["study"] + "/" + slices["series"])[0]
        return cls(codes.astype(np.int64), slices["order"].to_numpy(np.int64))

    def take(self, rows: npt.NDArray[np.bool_] | IntArray) -> "SeriesNeighbours":
        """Return the neighbours among `rows` only, a mask or row numbers."""
        return SeriesNeighbours(self.series[rows], self.order[rows])

    def neighbour(self, distance: int) -> IntArray:
        """Return for each row the row that is `distance` slices away (negative: before), `(N,)`.

        Beyond the ends of a series, this is its first or last slice.
        """
        rows, first, last, place = self._sorted
        return rows[np.clip(place + distance, first, last)]

    @cached_property
    def alone(self) -> npt.NDArray[np.bool_]:
        """Which slices are the only one of their series, `(N,)`."""
        _, first, last, _ = self._sorted
        alone: npt.NDArray[np.bool_] = first == last
        return alone

    @cached_property
    def missing(self) -> IntArray:
        """How many of its two adjacent neighbours a slice lacks, `(N,)`: 1 at either end of a series."""
        _, first, last, place = self._sorted
        missing: IntArray = (place == first).astype(np.int64) + (place == last)
        return missing

    @cached_property
    def _sorted(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the rows sorted by series and order; for each row its series' first and last place and its place."""
        rows = np.lexsort((self.order, self.series)).astype(np.int64)
        sorted_series = self.series[rows]
        first = np.searchsorted(sorted_series, self.series, "left").astype(np.int64)
        last = np.searchsorted(sorted_series, self.series, "right").astype(np.int64) - 1
        place = np.empty(len(rows), np.int64)
        place[rows] = np.arange(len(rows))
        return rows, first, last, place
