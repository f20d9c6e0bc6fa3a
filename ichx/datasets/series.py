"""Geometry of the series of a dataset: order, spacing, tilt, flags, runs, neighbours. The rules are in `ichx.ct`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.geometry import (
    OFF_NORMAL,
    degrees_between,
    order_series,
    position_along_normal,
    series_normals,
    steps_between,
)
from ichx.ct.runs import find_runs
from ichx.ct.spacing import SAME_PLACE, find_gaps_and_overlaps
from ichx.text import EXAMPLES

NOT_AXIAL_FROM: Final = 45.0
"""Degrees between a series' normal and the patient's long axis above which the series is not axial."""

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gap": "the step before the slice is much wider than the spacing around it: slices are missing",
        "overlap": "the slice lies between others: a region was scanned twice, or two blocks overlap",
        "same_place": "the slice is less than 0.1 mm from the previous one: the position was scanned twice",
        "off_normal": "the slice is rotated by more than 1 degree against its series",
        "not_axial": "the series is coronal or sagittal",
        "by_number": "positions or orientations are missing: ordered by instance number",
    }
)
"""Boolean columns of a catalog and their meanings. Flagged slices are used; flags are not defects."""

POSITIONS: Final = ["pos_x", "pos_y", "pos_z"]
ORIENTATIONS: Final = [f"orientation_{i}" for i in range(6)]


def series_geometry(series: pd.Series, scan: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Return the geometry columns of a catalog for the slices of `scan`, which belong to `series`; (N,) each.

    `position` along the series' normal and `step` from the previous slice, in mm; `order` and `run` from 0; `tilt`
    between the normal and the patient's long axis, 0 to 90 degrees; and the booleans of `FLAGS`.
    """
    codes = pd.factorize(series)[0]
    slice_ids = scan["slice_id"].to_numpy(object)
    tie = np.empty(len(scan), np.int64)
    tie[np.argsort(slice_ids, kind="stable")] = np.arange(len(scan))
    orientation = scan[ORIENTATIONS].to_numpy(float)
    normal = series_normals(codes, orientation)
    along = position_along_normal(scan[POSITIONS].to_numpy(float), normal)
    order, by_number = order_series(codes, along, scan["instance_number"].to_numpy(), tie)
    steps = np.where(by_number, np.nan, steps_between(codes, order, along))
    gap, overlap = find_gaps_and_overlaps(codes, order, steps)
    slice_normal = np.cross(orientation[:, :3], orientation[:, 3:])
    angle = degrees_between(normal, np.broadcast_to([0.0, 0, 1], normal.shape))
    tilt = np.minimum(angle, 180 - angle)
    return {
        "position": along,
        "order": order,
        "run": find_runs(codes, order, np.where(by_number, np.nan, along), scan["instance_number"].to_numpy()),
        "step": steps,
        "tilt": tilt,
        "gap": gap,
        "overlap": overlap,
        "same_place": steps < SAME_PLACE,
        "off_normal": degrees_between(slice_normal, normal) > OFF_NORMAL,
        "not_axial": tilt > NOT_AXIAL_FROM,
        "by_number": by_number,
    }


def runs_of_catalog(slices: pd.DataFrame) -> npt.NDArray[np.int32]:
    """Return the column `run` of a catalog without it, which an older version wrote, for rows without a defect."""
    along = slices["position"].where(~slices["by_number"]).to_numpy(float)
    return find_runs(series_codes(slices), slices["order"].to_numpy(), along, slices["instance_number"].to_numpy())


def series_codes(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a number per series, (n,), from 0 in the order of rows: a series is of one study."""
    return _codes(slices, "study", "series")


def run_codes(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a number per run, (n,), from 0 in the order of rows: a run is of one series."""
    return _codes(slices, "study", "series", "run")


def _codes(slices: pd.DataFrame, *names: str) -> npt.NDArray[np.int64]:
    codes = np.zeros(len(slices), np.int64)
    for name in names:
        values, distinct = pd.factorize(slices[name])
        codes = pd.factorize(codes * max(len(distinct), 1) + values)[0].astype(np.int64)
    return codes


def neighbour_rows(slices: pd.DataFrame) -> pd.DataFrame:
    """Return `previous` and `next`, (n,) int64: the rows of the adjacent slices in each row's run, or -1.

    `slices` is sorted by series and order.
    """
    codes = run_codes(slices)
    rows = np.argsort(codes, kind="stable")
    same = codes[rows[1:]] == codes[rows[:-1]]
    previous, following = np.full(len(slices), -1), np.full(len(slices), -1)
    previous[rows[1:][same]] = rows[:-1][same]
    following[rows[:-1][same]] = rows[1:][same]
    return pd.DataFrame({"previous": previous, "next": following}, index=slices.index)


def stack_rows(
    runs: npt.NDArray[np.int64],
    readable: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    reach: int,
    *,
    repeat: bool = True,
) -> npt.NDArray[np.int64]:
    """Return each of `rows` with the `reach` slices before and after it in its run, (N, 2 `reach` + 1) int64 rows.

    Unreadable slices are skipped. Beyond the ends of a run its outermost readable slice is repeated, or the row is -1.

    Args:
        runs: (n,) `run_codes` of all slices, which are sorted by series and order.
        readable: (n,) whether each slice can be read.
        rows: (N,) readable rows.
        reach: Number of slices on each side.
        repeat: Whether the outermost slice is repeated.
    """
    candidates = np.flatnonzero(readable)
    candidates = candidates[np.argsort(runs[candidates], kind="stable")]
    codes = runs[candidates]
    place = np.empty(len(runs), np.int64)
    place[candidates] = np.arange(len(candidates))
    centre, own = place[rows], runs[rows]
    first, last = np.searchsorted(codes, own, "left"), np.searchsorted(codes, own, "right") - 1
    wanted = centre[:, None] + np.arange(-reach, reach + 1)
    inside = np.clip(wanted, first[:, None], last[:, None])
    stacked: npt.NDArray[np.int64] = candidates[inside]
    return stacked if repeat else np.where(wanted == inside, stacked, -1)


def count_flags(slices: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return the number of series and slices with each of `FLAGS` that occurs."""
    counts = {}
    for flag in FLAGS:
        flagged = slices.loc[slices[flag], ["study", "series"]]
        if len(flagged):
            counts[flag] = {"series": len(flagged.drop_duplicates()), "slices": len(flagged)}
    return counts


def flagged_slices(slices: pd.DataFrame, flag: str, count: int = EXAMPLES) -> pd.DataFrame:
    """Return the first flagged slice of each of `count` series."""
    flagged = slices[slices[flag]]
    return flagged[~flagged[["study", "series"]].duplicated()].head(count)


def flag_examples(slices: pd.DataFrame, flag: str) -> list[str]:
    """Return the first flagged file of each of three series."""
    return [str(file) for file in flagged_slices(slices, flag)["file"]]


def describe_geometry(slices: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each flag that occurs with its meaning, the number of series and slices, and example files."""
    return [
        {"flag": flag, "meaning": FLAGS[flag], **counts, "examples": flag_examples(slices, flag)}
        for flag, counts in count_flags(slices).items()
    ]


def describe_series(slices: pd.DataFrame) -> dict[str, Any]:
    """Return the number of `series`, `lengths` (quantiles of the number of slices), `spacings`, and the tilt.

    `spacings` lists the median steps of series in mm, with the number of series, the most frequent first. Those that
    round to the same 0.05 count as one: the most frequent of them, rounded to 0.001. `tilted` counts axial series with
    a gantry tilt of more than 1 degree; `median_tilt` is theirs in degrees. `several_runs` counts series with several
    runs, e.g. of two interleaved scans.
    """
    grouped = slices.groupby(series_codes(slices), sort=False)
    lengths = grouped.size()
    spacing = grouped["step"].median().astype(float).dropna()
    counts = spacing.round(3).groupby((20 * spacing).round()).agg(["size", _most_frequent])
    counts = counts.sort_values("size", ascending=False, kind="stable")
    tilt = grouped["tilt"].first()
    tilted = tilt[(tilt > OFF_NORMAL) & (tilt <= NOT_AXIAL_FROM)]
    shares = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
    return {
        "series": len(lengths),
        "lengths": {name: int(lengths.quantile(share, interpolation="nearest")) for name, share in shares.items()},
        "spacings": [{"mm": float(mm), "series": int(count)} for count, mm in counts.itertuples(index=False)],
        "tilted": len(tilted),
        "median_tilt": float(tilted.median()) if len(tilted) else None,
        "several_runs": int((grouped["run"].max() > 0).sum()),
    }


def _most_frequent(values: pd.Series) -> float:
    return float(values.mode().iloc[0])
