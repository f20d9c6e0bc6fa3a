"""Geometry flags of series with missing slices: share of holes found, false flags.

python benchmarks/gaps.py [--quick] [--json FILE]

Slices are removed at random from regular, tilted and two-spacing series, never the first or the last one. A hole next
to a change of spacing is hidden if complete series look the same: the step is not above the larger spacing, or adds up
to it with an adjacent step, as the steps of two passes do. Hidden holes do not count. If ICHX_TEST_DATA has real
headers, slices are removed from them, too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import data_folder
from common import Figure, arguments, conclude

from ichx.ct.geometry import position_along_normal, series_normals
from ichx.ct.spacing import GAP_BETWEEN, TOLERANCE, find_gaps_and_overlaps

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SPACINGS = ((2.5, 5), (3, 6), (3, 5), (1.25, 5), (3.75, 5), (2.5, 7.5), (2, 5))
SHARES = (0.15, 0.3, 0.5, 0.7, 0.85)


@dataclass(frozen=True)
class Result:
    """What was found in many series."""

    flagged: float
    """Share of the series with visible holes in which one is found."""
    holes: float
    """Share of the visible holes that are found."""
    false_gaps: int
    false_overlaps: int


@dataclass(frozen=True)
class Series:
    """A complete series."""

    steps: FloatArray
    change: int | None = None
    """Number of the step at which the spacing changes."""


def regular(random: np.random.Generator) -> Series:
    return Series(np.full(random.integers(19, 45), random.choice([0.625, 1.25, 2.5, 3, 4.8, 5, 6])))


def tilted(random: np.random.Generator) -> Series:
    """Return a series whose positions are rounded to 0.1, 0.01 or 0.001 mm along the table."""
    tilt = np.radians(random.uniform(1, 30))
    along_table = np.round(np.arange(random.integers(20, 46)) * 5 / np.cos(tilt), random.integers(1, 4))
    return Series(np.diff(along_table) * np.cos(tilt))


def two_spacings(random: np.random.Generator) -> Series:
    first, second = SPACINGS[random.integers(len(SPACINGS))]
    if random.random() < 0.2:
        first, second = second, first
    low, high = 0.45 * min(first, second), max(first, second)
    between = random.choice([first, second, (first + second) / 2, random.uniform(low, high)])
    before, after = random.integers(7, 19), random.integers(9, 23)
    return Series(np.array([first] * before + [between] + [second] * after, float), int(before))


def remove(series: Series, removed: npt.NDArray[np.integer]) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Return the steps without the `removed` slices, which of them are holes, and which holes are hidden."""
    positions = np.concatenate([[0], np.cumsum(series.steps)])
    kept = np.setdiff1d(np.arange(len(positions)), removed)
    steps, holes = np.diff(positions[kept]), np.diff(kept) > 1
    hidden = np.zeros(len(steps), bool)
    if series.change is not None and len(kept) > 1:
        last = series.change  # the last slice of the first block
        largest = GAP_BETWEEN * max(series.steps[0], series.steps[-1])
        between = series.steps[last]
        touches = (kept[:-1] <= last) & (kept[1:] > last)
        touches |= (kept[1:] == last) & np.isclose(between, series.steps[-1])
        touches |= (kept[:-1] == last + 1) & np.isclose(between, series.steps[0])
        hidden = holes & touches & (steps <= largest)
        near = np.abs(np.searchsorted(kept, last) - np.arange(len(steps))) <= 2
        pairs = np.abs(steps[:-1] + steps[1:] - largest / GAP_BETWEEN) <= TOLERANCE * largest
        hidden |= holes & near & (np.append(pairs, False) | np.append(False, pairs))
    return steps, holes, hidden


def measure(
    make: Callable[[np.random.Generator], Series],
    trials: int,
    *,
    missing: int | None = None,
    share: float = 1.0,
    seed: int = 0,
) -> Result:
    """Flag `trials` series, each without `missing` inner slices, or with a random `share` of its slices."""
    random = np.random.default_rng(seed)
    cases = []
    for _ in range(trials):
        series = make(random)
        size = len(series.steps) + 1
        if missing is not None:
            removed = random.choice(np.arange(1, size - 1), missing, replace=False)
        else:
            removed = np.flatnonzero(random.random(size) >= share)
        if size - len(removed) >= 3:
            cases.append(remove(series, removed))
    sizes = [len(steps) + 1 for steps, _, _ in cases]
    code, order = np.repeat(np.arange(len(cases)), sizes), np.concatenate([np.arange(size) for size in sizes])
    columns = [np.concatenate([np.append(np.nan, case[i]) for case in cases]) for i in range(3)]
    steps, holes, hidden = columns[0], columns[1] == 1, columns[2] == 1
    gap, overlap = find_gaps_and_overlaps(code, order, steps)
    visible = holes & ~hidden
    found = np.bincount(code, weights=gap & visible) > 0
    damaged = np.bincount(code, weights=visible) > 0
    return Result(
        flagged=float(found[damaged].mean()) if damaged.any() else 1.0,
        holes=float(gap[visible].mean()) if visible.any() else 1.0,
        false_gaps=int((gap & ~holes).sum()),
        false_overlaps=int(overlap.sum()),
    )


def real_series() -> list[Series]:
    """Return the real series without flags; an empty list without test data."""
    folder = data_folder()
    if folder is None:
        return []
    headers = pd.read_csv(folder / "metadata/slices_78545.csv.gz")
    code = pd.factorize(headers["SeriesInstanceUID"])[0]
    orientation = headers[[f"ImageOrientationPatient_{i + 1}" for i in range(6)]].to_numpy(float)
    position = headers[[f"ImagePositionPatient_{i + 1}" for i in range(3)]].to_numpy(float)
    along = position_along_normal(position, series_normals(code, orientation))
    found = []
    for _, places in pd.Series(along).groupby(code):
        steps = np.diff(np.sort(places.to_numpy()))
        nothing = np.append(np.nan, steps)
        gap, overlap = find_gaps_and_overlaps(np.zeros(len(nothing), int), np.arange(len(nothing)), nothing)
        blocks = np.flatnonzero(np.abs(np.diff(steps)) > 0.05)  # of one spacing, or of two with a step between them
        if (
            steps.min() > 1
            and len(blocks) <= 2
            and (len(blocks) < 2 or blocks[1] == blocks[0] + 1)
            and not gap.any()
            and not overlap.any()
        ):
            found.append(Series(steps, int(blocks[-1]) if len(blocks) else None))
    return found


def main() -> None:
    options = arguments(__doc__)
    trials = 300 if options.quick else 3000
    makers = {"regular": regular, "tilted": tilted, "two spacings": two_spacings}
    if real := real_series():
        makers["real"] = lambda random: real[random.integers(len(real))]
    figures = []
    for name, make in makers.items():
        complete = measure(make, trials, missing=0)
        false = complete.false_gaps + complete.false_overlaps
        figures.append(Figure(f"{name}, complete: false flags", false, "", f"{trials:,} series", "0", false == 0))
        for missing, target in ((1, 1.0), (2, 0.99), (3, 0.95), (5, 0.95)):
            result = measure(make, trials, missing=missing)
            false = result.false_gaps + result.false_overlaps
            figures += [
                Figure(
                    f"{name}, {missing} missing: {what}",
                    100 * share,
                    "%",
                    f"{false} false flags",
                    f"{100 * target:g} %",
                    share >= target,
                )
                for what, share in (("series flagged", result.flagged), ("holes found", result.holes))
            ]
        for share in SHARES:
            result = measure(make, trials, share=share)
            allowed, found = trials // 500, f"{result.false_gaps} false gaps, {result.holes:.0%} of the holes found"
            what = f"{name}, {share:.0%} of the slices: false overlaps"
            met = result.false_overlaps <= allowed
            figures.append(Figure(what, result.false_overlaps, "", found, f"{allowed} of {trials:,} series", met))
    conclude(figures, options)


if __name__ == "__main__":
    main()
