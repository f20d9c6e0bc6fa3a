"""Runs: chains of slices at the spacing of a series."""

import numpy as np
import pytest

from ichx.ct.runs import find_runs


def runs_of(positions: list[float] | np.ndarray, numbers: list[int] | None = None) -> list[int]:
    along = np.asarray(positions, float)
    number = np.full(len(along), -1) if numbers is None else np.array(numbers)
    return find_runs(np.zeros(len(along), int), np.arange(len(along)), along, number).tolist()


def places(*steps: float) -> np.ndarray:
    return np.round(np.cumsum([0.0, *steps]), 6)


def test_two_interleaved_scans_are_two_runs() -> None:
    assert runs_of(places(*[4.41, 0.59] * 6)) == [0, 1] * 6 + [0]


def test_second_scan_of_a_part() -> None:
    along = places(*[5.0] * 5, *[4.44, 0.56] * 4, *[5.0] * 5)
    assert runs_of(along) == [0] * 6 + [1, 0] * 4 + [0] * 5


def test_second_scan_without_short_steps() -> None:
    """No step is short enough for the flag `overlap`."""
    along = places(*[2.5] * 8, *[2.17, 2.83] * 5, 2.17, *[5.0] * 6)
    assert runs_of(along[8:]) == [0] + [1, 0] * 5 + [1] * 7


def test_thick_and_thin_scan_of_one_region() -> None:
    """Thin slices at 0, 2.5, ... mm and thick ones at 1.8, 6.8, ... mm."""
    thin, thick = 2.5 * np.arange(13), 1.8 + 5.0 * np.arange(6)
    order = np.argsort(np.concatenate([thin, thick]))
    expected = np.repeat([0, 1], [13, 6])[order]
    assert runs_of(np.concatenate([thin, thick])[order]) == expected.tolist()


def test_thick_scan_begins_before_the_thin_one_ends() -> None:
    thin, thick = 2.5 * np.arange(16), 31.9 + 5.0 * np.arange(20)
    order = np.argsort(np.concatenate([thin, thick]))
    assert runs_of(np.concatenate([thin, thick])[order]) == np.repeat([0, 1], [16, 20])[order].tolist()


def test_single_repeated_slice_is_a_run() -> None:
    assert runs_of(places(5, 5, 0, 5, 5, 5)) == [0, 0, 0, 1, 0, 0, 0]
    assert runs_of(places(5, 5, 0, 5, 5, 5), [1, 2, 3, 4, 5, 6, 7]) == [0, 0, 0, 1, 0, 0, 0]
    assert runs_of(places(5, 5, 4.4, 0.6, 5, 5, 5)) == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("second", [[21, 22, 23, 24, 25, 26], [26, 25, 24, 23, 22, 21]], ids=["same", "opposite"])
def test_scans_of_the_same_places_are_told_apart_by_their_instance_numbers(second: list[int]) -> None:
    """Slices at one place are ordered by number; here, the second scan ends earlier."""
    along = np.repeat(5.0 * np.arange(8), [2] * 6 + [1] * 2)
    numbers = np.array([[first, other] for first, other in zip(range(1, 7), second, strict=True)]).ravel().tolist()
    assert runs_of(along, [*numbers, 7, 8]) == [0, 1] * 6 + [0, 0]


def test_second_scan_continues_beyond_the_first() -> None:
    along = np.sort(np.concatenate([5.0 * np.arange(8), 5.0 * np.arange(4, 12)]))
    numbers = [1, 2, 3, 4, 5, 9, 6, 10, 7, 11, 8, 12, 13, 14, 15, 16]
    assert runs_of(along, numbers) == [0] * 4 + [0, 1] * 4 + [1] * 4


def test_phases_numbered_place_by_place() -> None:
    along = np.repeat(5.0 * np.arange(6), 4)
    assert runs_of(along, list(range(1, 25))) == [0, 1, 2, 3] * 6


@pytest.mark.parametrize(
    "steps",
    [
        [5.0] * 20,
        [5.0] * 6 + [10.0] + [5.0] * 4 + [15.0] + [5.0] * 6,
        [2.5] * 12 + [0.98] + [5.0] * 15,
        [2.5] * 12 + [3.6] + [5.0] * 15,
        [0.625, 0.75] * 10,
        [5.0, 10.0, 15.0, 5.0, 25.0, 10.0, 5.0, 5.0, 20.0, 10.0],
        [],
    ],
    ids=["regular", "holes", "overlapping blocks", "blocks", "rounded", "subset", "one slice"],
)
def test_one_scan_is_one_run(steps: list[float]) -> None:
    assert runs_of(places(*steps)) == [0] * (len(steps) + 1)


def test_far_slices_are_no_neighbours() -> None:
    assert runs_of(places(5, 5, 5, 40, 5, 5)) == [0] * 7
    assert runs_of(places(5, 5, 5, 74.1, 5, 5)) == [0] * 4 + [1] * 3
    assert runs_of(places(*[5] * 4, 144, *[4.4, 0.6] * 5)) == [0] * 5 + [1, 2] * 5 + [1]


def test_series_without_positions_or_at_one_place_is_one_run() -> None:
    assert runs_of([np.nan] * 5) == [0] * 5
    assert runs_of([7.5] * 5) == [0] * 5


def test_runs_do_not_depend_on_other_series_or_the_order_of_rows() -> None:
    first, second = places(*[4.41, 0.59] * 6), places(*[5.0] * 9)
    series = np.repeat([1, 0], [len(first), len(second)])
    order = np.concatenate([np.arange(len(first)), np.arange(len(second))])
    along = np.concatenate([first, second])
    expected = np.array(runs_of(first) + runs_of(second))
    assert find_runs(series, order, along, np.full(len(along), -1)).tolist() == expected.tolist()
    shuffled = np.random.default_rng(0).permutation(len(along))
    found = find_runs(series[shuffled], order[shuffled], along[shuffled], np.full(len(along), -1))
    assert found.tolist() == expected[shuffled].tolist()


def test_study_of_three_thousand_slices() -> None:
    along = np.sort(np.concatenate([0.625 * np.arange(1500), 0.625 * np.arange(1500) + 0.2]))
    assert runs_of(along) == [0, 1] * 1500


def test_no_slices() -> None:
    assert runs_of([]) == []
