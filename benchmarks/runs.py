"""Runs of slices within a series: agreement of adjacent labels in real series, recovery of interleaved scans.

python benchmarks/runs.py [--quick] [--json FILE]

Real headers and labels need ICHX_TEST_DATA. They have no instance numbers, so slices of two scans of the same places
are assigned at random. P(any | previous any) is the share of positive slices among those after a positive slice.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import data_folder
from common import Figure, arguments, conclude
from gaps import regular, tilted, two_spacings

from ichx.ct.runs import find_runs
from ichx.datasets.series import ORIENTATIONS, POSITIONS, run_codes, series_codes, series_geometry

FloatArray = npt.NDArray[np.float64]


def real_slices() -> pd.DataFrame | None:
    """Return the geometry and `any` of real slices by series and order; None without test data."""
    folder = data_folder()
    if folder is None:
        return None
    headers = pd.read_csv(folder / "metadata/slices_78545.csv.gz")
    scan = pd.DataFrame({"slice_id": headers["SOPInstanceUID"], "instance_number": -1})
    scan[POSITIONS] = headers[[f"ImagePositionPatient_{i + 1}" for i in range(3)]]
    scan[ORIENTATIONS] = headers[[f"ImageOrientationPatient_{i + 1}" for i in range(6)]]
    slices = pd.DataFrame(series_geometry(headers["SeriesInstanceUID"], scan))
    slices[["study", "series", "any"]] = headers[["StudyInstanceUID", "SeriesInstanceUID", "any"]]
    return slices.sort_values(["study", "series", "order"], ignore_index=True)


def persistence(positive: pd.Series, codes: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_]) -> tuple[float, int]:
    """Return P(any | previous any) over `rows` and their number; the previous slice has the same code."""
    after = rows & (positive.groupby(codes).shift() == 1)
    return float(positive[after].mean()), int(after.sum())


def real_figures(slices: pd.DataFrame) -> list[Figure]:
    series, runs = series_codes(slices), run_codes(slices)
    several = slices.groupby(series)["run"].max() > 0
    other = (np.diff(series, prepend=-1) == 0) & (np.diff(runs, prepend=-1) != 0)
    interleaved = other | np.append(other[1:], False)
    positive = slices["any"]
    figures = [
        Figure(
            "series with several runs",
            100 * float(several.mean()),
            "%",
            f"{several.sum()} of {len(several):,}",
            "> 0",
            bool(several.any()),
        )
    ]
    where = {"next to a slice of another run": interleaved, "all other slices": ~interleaved}
    for name, rows in where.items():
        before, count = persistence(positive, series, rows)
        after, in_run = persistence(positive, runs, rows)
        figures.append(
            Figure(
                f"P(any | previous any in the run), {name}",
                after,
                "",
                f"{before:.3f} in the series ({count:,} and {in_run:,} slices)",
                "0.8",
                after >= 0.8,
            )
        )
    places = slices.groupby(series)["same_place"].transform("any").to_numpy(bool)
    for name, rows in {"no place scanned twice": ~places, "a place scanned twice": places}.items():
        before, _ = persistence(positive, series, interleaved & rows)
        after, count = persistence(positive, runs, interleaved & rows)
        compared = f"{before:.3f} in the series ({count:,} slices)"
        figures.append(Figure(f"  of these, {name}", after, "", compared, "> series", after > before))
    far = 0.0, 0
    for distance in range(1, 60):
        gap = slices["position"].groupby(series).diff(distance).to_numpy()
        rows = (gap >= 35) & (gap < 45) & (positive.groupby(series).shift(distance) == 1).to_numpy()
        far = far[0] + float(positive[rows].sum()), far[1] + int(rows.sum())
    share = far[0] / far[1]
    figures.append(
        Figure("P(any | any at 35 to 45 mm)", share, "", f"{far[1]:,} pairs", "0.5", abs(share - 0.5) < 0.05)
    )
    return figures


def found_runs(series: Iterable[FloatArray]) -> list[npt.NDArray[np.int32]]:
    """Return the runs of each of `series`, sorted positions in mm."""
    positions = list(series)
    sizes = [len(along) for along in positions]
    codes, order = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])
    runs = find_runs(codes, order, np.concatenate(positions), np.full(len(codes), -1))
    return np.split(runs, np.cumsum(sizes)[:-1])


def interleaved(random: np.random.Generator, missing: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the positions of two scans that overlap, and the scan of each slice."""
    spacing = random.choice([2.5, 3.0, 5.0])
    size = random.integers(20, 45)
    start = random.integers(0, size // 2)
    scans = np.arange(size), np.arange(start, random.integers(start + missing + 4, size + missing + 4))
    shift = random.uniform(0.1, 0.4) * spacing
    places = []
    for number, scan in enumerate(scans):
        removed = random.choice(np.arange(1, len(scan) - 1), missing, replace=False)
        places.append(number * shift + spacing * np.delete(scan, removed))
    along, scan_of = np.concatenate(places), np.repeat([0, 1], [len(part) for part in places])
    order = np.argsort(along, kind="stable")
    return along[order], scan_of[order]


def synthetic_figures(trials: int) -> list[Figure]:
    figures = []
    for make in (regular, tilted, two_spacings):
        random = np.random.default_rng(0)
        runs = found_runs(np.append(0, np.cumsum(make(random).steps)) for _ in range(trials))
        false = sum(bool(found.any()) for found in runs)
        name = make.__name__.replace("_", " ")
        figures.append(Figure(f"one scan, {name}: series split", false, "", f"{trials:,} series", "0", false == 0))
    for missing, target in ((0, 0.99), (1, 0.97), (3, 0.7)):
        random = np.random.default_rng(1)
        cases = [interleaved(random, missing) for _ in range(trials)]
        exact = [
            len(set(zip(found, scans, strict=True))) == len(set(found)) == 2
            for found, (_, scans) in zip(found_runs(along for along, _ in cases), cases, strict=True)
        ]
        what = f"two interleaved scans, slices missing in each: {missing}; exactly found"
        share = float(np.mean(exact))
        figures.append(Figure(what, 100 * share, "%", f"{trials:,} series", f"{100 * target:g} %", share >= target))
    return figures


def main() -> None:
    options = arguments(__doc__)
    slices = real_slices()
    figures = real_figures(slices) if slices is not None else []
    conclude(figures + synthetic_figures(300 if options.quick else 3000), options)


if __name__ == "__main__":
    main()
