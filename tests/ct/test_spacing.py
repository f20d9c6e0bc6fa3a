"""Gaps and overlaps of a series."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ichx.ct.geometry import order_series, steps_between
from ichx.ct.spacing import find_gaps_and_overlaps


@pytest.fixture(scope="module")
def gaps() -> ModuleType:
    """Return the benchmark of geometry flags."""
    folder = Path(__file__).parents[2] / "benchmarks"
    spec = importlib.util.spec_from_file_location("gaps", folder / "gaps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need it
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def flagged(*steps: float) -> tuple[list[int], list[int]]:
    """Return the numbers of the steps that are gaps, and of those that are overlaps."""
    along = np.cumsum([0, *steps])
    # Slices of another series lie between the rows of this one.
    series = np.tile([1, 0], len(along))
    along = np.repeat(along, 2)
    order, _ = order_series(series, along, np.zeros(len(series), int), np.arange(len(series)))
    between = steps_between(series, order, along)
    gap, overlap = (found[series == 1] for found in find_gaps_and_overlaps(series, order, between))
    return (np.flatnonzero(gap) - 1).tolist(), (np.flatnonzero(overlap) - 1).tolist()


@pytest.mark.parametrize(
    ("steps", "gaps", "overlaps"),
    [
        ((5, 5, 5, 5, 5, 5), [], []),
        ((5, 5, 10, 5, 5, 5), [2], []),
        ((5, 10, 5, 10, 5, 5), [1, 3], []),  # two slices are missing
        ((10, 5, 5, 5), [0], []),  # at the end of a series
        ((5, 5, 5, 15), [3], []),
        ((2.5, 2.5, 2.5, 2.5, 5, 5, 5, 5), [], []),  # thin slices at the base, thick ones above
        ((2.5, 2.5, 2.5, 2.5, 5, 5), [], []),
        ((2.5, 2.5, 2.5, 10, 5, 5, 5), [3], []),
        ((5, 5, 4.5, 0.5, 4.5, 0.5, 5, 5), [], [3, 5]),  # a part scanned again
        ((2.5, 2.5, 1.9, 0.6, 2.5, 1.9, 0.6, 4.4, 0.6, 5, 5, 5), [], [3, 6, 8]),  # over a change of thickness
        ((0, 5, 0, 5, 0, 5), [], []),  # all of it again, at the same places
        ((2.5, 2.5, 2.5, 0.9, 5, 5, 5), [], [3]),  # two blocks overlap
        ((5, 5, 20, 5), [2], []),  # a step at an end is small only against all around it
        ((5,), [], []),
        ((), [], []),
    ],
)
def test_gaps_and_overlaps(steps: tuple[float, ...], gaps: list[int], overlaps: list[int]) -> None:
    assert flagged(*steps) == (gaps, overlaps)


@pytest.mark.parametrize("kind", ["regular", "tilted", "two_spacings"])
@pytest.mark.parametrize(("missing", "least"), [(0, 1.0), (1, 1.0), (2, 0.99), (5, 0.95)])
def test_missing_slices_are_gaps(gaps: ModuleType, kind: str, missing: int, least: float) -> None:
    """Holes do not hide each other: with five missing slices, the old rule found two thirds of the holes."""
    result = gaps.measure(getattr(gaps, kind), 400, missing=missing)
    assert result.flagged >= least
    assert result.holes >= least
    if missing < 2:
        assert (result.false_gaps, result.false_overlaps) == (0, 0)


@pytest.mark.parametrize("kind", ["regular", "tilted", "two_spacings"])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.85])
def test_random_subsets_have_no_overlaps(gaps: ModuleType, kind: str, share: float) -> None:
    result = gaps.measure(getattr(gaps, kind), 300, share=share, seed=1)
    assert result.false_overlaps == 0
    if kind != "two_spacings":
        assert result.false_gaps == 0


@pytest.mark.parametrize(("first", "second"), [(2.5, 5.0), (5.0, 2.5), (3.0, 5.0), (1.25, 5.0), (3.75, 5.0)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.5, 1.0])
def test_hole_next_to_a_change_of_spacing(gaps: ModuleType, first: float, second: float, share: float) -> None:
    """A hole is found at every position, unless the rest is a complete series with a change of spacing."""
    between = first + share * (second - first)
    series = gaps.Series(np.array([first] * 12 + [between] + [second] * 14), 12)
    for removed in range(1, 27):
        steps, holes, hidden = gaps.remove(series, np.array([removed]))
        assert flagged(*steps) == (np.flatnonzero(holes & ~hidden).tolist(), []), removed
        if hidden.any():
            assert removed in (11, 12, 13, 14)
            blocks = [(steps[:at] == first).all() and (steps[at + 1 :] == second).all() for at in range(1, len(steps))]
            assert any(blocks)


def test_missing_positions_have_no_flags() -> None:
    gap, overlap = find_gaps_and_overlaps(np.zeros(4, int), np.array([3, 1, 0, 2]), np.full(4, np.nan))
    assert not gap.any()
    assert not overlap.any()
