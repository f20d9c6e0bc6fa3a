"""Which slices are neighbours along the head: slices of one series, in the order of their positions."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Heads:
    """The `series` (N,) of N slices, as numbers, and their `order` (N,) in it.

    Neighbours are those that follow each other in the order, whether or not slices between them are missing.
    """

    series: IntArray
    order: IntArray

    @classmethod
    def of(cls, slices: pd.DataFrame) -> "Heads":
        """Return the series and order of a catalog's rows."""
        codes = pd.factorize(slices["study"] + "/" + slices["series"])[0]
        return cls(codes.astype(np.int64), slices["order"].to_numpy(np.int64))

    def take(self, rows: npt.NDArray[np.bool_] | IntArray) -> "Heads":
        """Return those of some rows, a mask or their numbers; slices of other rows are nobody's neighbours."""
        return Heads(self.series[rows], self.order[rows])

    def neighbour(self, distance: int) -> IntArray:
        """Return for each row the row that is `distance` slices away (negative: before), `(N,)`.

        Beyond the first and last slice of a series, these stand in.
        """
        rows, first, last, place = self._sorted
        return rows[np.clip(place + distance, first, last)]

    @cached_property
    def alone(self) -> npt.NDArray[np.bool_]:
        """Which slices are the only one of their series, `(N,)`."""
        _, first, last, _ = self._sorted
        single: npt.NDArray[np.bool_] = first == last
        return single

    @cached_property
    def missing(self) -> IntArray:
        """How many of its two nearest neighbours a slice has not, `(N,)`: 1 at either end of a series."""
        _, first, last, place = self._sorted
        missing: IntArray = (place == first).astype(np.int64) + (place == last)
        return missing

    @cached_property
    def _sorted(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the rows sorted by series and order, and by row its series' first and last place and its own."""
        rows = np.lexsort((self.order, self.series)).astype(np.int64)
        sorted_series = self.series[rows]
        first = np.searchsorted(sorted_series, self.series, "left").astype(np.int64)
        last = np.searchsorted(sorted_series, self.series, "right").astype(np.int64) - 1
        place = np.empty(len(rows), np.int64)
        place[rows] = np.arange(len(rows))
        return rows, first, last, place
