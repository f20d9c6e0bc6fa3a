"""Where a slice is in its series: its number from head to foot, and its distance along the series in mm."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True)
class SlicePlace:
    """The place of a slice in its series, from head to foot where that is known, otherwise in the catalog's order."""

    number: int
    """From 1."""
    count: int
    """Slices of the series, also those that cannot be decoded."""
    oriented: bool
    """Whether the first slice is known to be the one nearest to the top of the head."""
    distance: float | None
    """From the first slice, along the series' normal in mm; None if positions are unknown."""
    length: float | None
    """From the first to the last slice in mm."""

    @property
    def share(self) -> float:
        """The place as a share of the series: 0 for the first slice, 1 for the last one."""
        if self.distance is not None and self.length:
            return self.distance / self.length
        return (self.number - 1) / max(self.count - 1, 1)


def slice_places(slices: pd.DataFrame, series: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> list[SlicePlace]:
    """Return the place of each of `rows` of `slices`, whose series have the codes `series` (N,)."""
    return [_place(slices, np.flatnonzero(series == series[row]), row) for row in rows.tolist()]


def _place(slices: pd.DataFrame, members: npt.NDArray[np.int64], row: int) -> SlicePlace:
    members = members[np.argsort(slices["order"].to_numpy()[members], kind="stable")]
    along, height = (slices[name].to_numpy(np.float64)[members] for name in ("position", "pos_z"))
    uncertain = any(slices[flag].to_numpy(bool)[members].any() for flag in ("by_number", "not_axial"))
    rise = height[-1] - height[0]
    oriented = not uncertain and bool(abs(rise) > 0)  # not for NaN
    if oriented and rise > 0:  # from foot to head
        members, along = members[::-1], along[::-1]
    index = int(np.flatnonzero(members == row)[0])
    measured = not slices["by_number"].to_numpy(bool)[members].any() and bool(np.isfinite(along).all())
    return SlicePlace(
        number=index + 1,
        count=len(members),
        oriented=oriented,
        distance=abs(float(along[index] - along[0])) if measured else None,
        length=abs(float(along[-1] - along[0])) if measured else None,
    )
