"""Neighbouring slices: slices of one run in the order of their positions. Runs are found in `ichx.datasets.series`."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.series import run_codes

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeriesNeighbours:
    """The neighbours of N slices: those that follow each other in a run, even if slices between them are missing."""

    run: IntArray
    """Run of each slice as a number, `(N,)`."""
    order: IntArray
    """Place of each slice in its run, `(N,)`."""
    mm: npt.NDArray[np.float64] | None = None
    """Position of each slice in mm, `(N,)`; None if no position is known. See `position`."""

    @classmethod
    def of(cls, slices: pd.DataFrame) -> "SeriesNeighbours":
        """Return the neighbours of a catalog's rows."""
        mm = slices["position"].where(~slices["by_number"]).to_numpy(np.float64)
        return cls(run_codes(slices), slices["order"].to_numpy(np.int64), mm)

    @property
    def position(self) -> npt.NDArray[np.float64]:
        """Position of each slice along the normal of its series in mm, `(N,)`.

        It increases within a run. NaN in a series that is ordered by instance number: all of its slices, or none.
        """
        return np.full(len(self.run), np.nan) if self.mm is None else self.mm

    def take(self, rows: npt.NDArray[np.bool_] | IntArray) -> "SeriesNeighbours":
        """Return the neighbours among `rows` only, a mask or row numbers."""
        return SeriesNeighbours(self.run[rows], self.order[rows], None if self.mm is None else self.mm[rows])

    def neighbour(self, distance: int) -> IntArray:
        """Return for each row the row that is `distance` slices away (negative: before), `(N,)`.

        Beyond the ends of a run, this is its first or last slice.
        """
        rows, first, last, place = self._sorted
        return rows[np.clip(place + distance, first, last)]

    def sequences(self) -> list[IntArray]:
        """Return the rows of each run in the order of its slices, sorted by the number of the run."""
        rows = self._sorted[0]
        ends = np.flatnonzero(np.diff(self.run[rows])) + 1
        return list(np.split(rows, ends)) if len(rows) else []

    @cached_property
    def alone(self) -> npt.NDArray[np.bool_]:
        """Which slices are the only one of their run, `(N,)`."""
        _, first, last, _ = self._sorted
        alone: npt.NDArray[np.bool_] = first == last
        return alone

    @cached_property
    def missing(self) -> IntArray:
        """How many of its two adjacent neighbours a slice lacks, `(N,)`: 1 at either end of a run."""
        _, first, last, place = self._sorted
        missing: IntArray = (place == first).astype(np.int64) + (place == last)
        return missing

    @cached_property
    def _sorted(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the rows sorted by run and order; for each row its run's first and last place and its place."""
        rows = np.lexsort((self.order, self.run)).astype(np.int64)
        sorted_runs = self.run[rows]
        first = np.searchsorted(sorted_runs, self.run, "left").astype(np.int64)
        last = np.searchsorted(sorted_runs, self.run, "right").astype(np.int64) - 1
        place = np.empty(len(rows), np.int64)
        place[rows] = np.arange(len(rows))
        return rows, first, last, place
