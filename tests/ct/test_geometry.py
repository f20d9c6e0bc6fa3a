"""Order of slices in a series, and the head's centre."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.ct.geometry import (
    degrees_between,
    head_centre,
    order_series,
    position_along_normal,
    series_normals,
    shift_to_centre,
    steps_between,
)


def test_positions_follow_the_tilted_normal() -> None:
    tilt = np.deg2rad(20)
    row, column = np.array([1, 0, 0]), np.array([0, np.cos(tilt), np.sin(tilt)])
    normal = np.cross(row, column)
    steps = np.array([0, 5.0, 10, 15])
    # The scanner keeps the table's axis: each slice also slides along its own plane.
    position = steps[:, None] * normal + np.array([0, 3, 7, 1])[:, None] * column
    series = np.zeros(4, int)
    normals = series_normals(series, np.tile(np.concatenate([row, column]), (4, 1)))
    np.testing.assert_allclose(normals, np.tile(normal, (4, 1)), atol=1e-12)
    np.testing.assert_allclose(position_along_normal(position, normals), steps, atol=1e-12)


def test_one_slice_without_orientation_takes_its_series() -> None:
    orientation = np.array([[1, 0, 0, 0, 1, 0], [np.nan] * 6, [np.nan] * 6], float)
    normals = series_normals(np.array([0, 0, 1]), orientation)
    np.testing.assert_allclose(normals[:2], [[0, 0, 1], [0, 0, 1]])
    assert np.isnan(normals[2]).all()


def test_ranks_are_counted_in_each_series() -> None:
    series = np.array([1, 0, 1, 0, 1])
    along = np.array([30.0, 5, 10, 0, 20])
    ranks, by_number = order_series(series, along, np.zeros(5, int), np.arange(5))
    assert ranks.tolist() == [2, 1, 0, 0, 1]
    assert not by_number.any()


def test_a_series_with_a_missing_position_is_ordered_by_instance_number() -> None:
    series = np.array([0, 0, 0, 1, 1])
    along = np.array([1.0, np.nan, 3, 2, 1])
    ranks, by_number = order_series(series, along, np.array([3, 2, 1, 1, 2]), np.arange(5))
    assert ranks.tolist() == [2, 1, 0, 1, 0]
    assert by_number.tolist() == [True, True, True, False, False]


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)))
def test_order_does_not_depend_on_the_rows(order: list[int]) -> None:
    random = np.random.default_rng(1)
    series, along = random.integers(0, 3, 12), random.integers(0, 4, 12).astype(float)
    series[:3] = [0, 1, 2]
    numbers, tie = random.integers(0, 3, 12), np.arange(12)
    ranks, _ = order_series(series, along, numbers, tie)
    moved, _ = order_series(series[order], along[order], numbers[order], tie[order])
    assert (moved == ranks[order]).all()
    for code in range(3):
        assert sorted(ranks[series == code]) == list(range(np.sum(series == code)))


def test_nothing_to_order() -> None:
    ranks, _ = order_series(np.empty(0, int), np.empty(0), np.empty(0, int), np.empty(0, int))
    assert len(ranks) == 0


def test_the_largest_component_is_the_head() -> None:
    hu = np.full((60, 80), -1000, np.int16)
    hu[10:31, 40:61] = 40
    hu[50:55, 5:10] = 800  # the table
    assert head_centre(hu) == pytest.approx((20, 50))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.9), st.sampled_from([(7, 9), (40, 60), (96, 96)]))
def test_the_largest_component_is_found_among_many(seed: int, share: float, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(seed).random(shape)
    hu = np.where(noise < share, 40, -1000).astype(np.int16)
    _, _, stats, centroids = cv2.connectedComponentsWithStats((hu > -500).view(np.uint8), connectivity=8)
    if len(stats) > 1:
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = centroids[1:][areas == areas.max()]  # of equal ones, either may be taken
        assert head_centre(hu) in [(row, column) for column, row in largest]


def test_an_empty_image_is_centred_on_its_middle() -> None:
    assert head_centre(np.full((11, 20), -1000, np.int16)) == (5, 9.5)


def test_shifting_moves_the_head_to_the_centre_and_fills_with_air() -> None:
    hu = np.full((61, 81), -1000, np.int16)
    hu[0:21, 60:81] = 40
    moved = shift_to_centre(hu, head_centre(hu))
    assert head_centre(moved) == pytest.approx((30, 40))
    assert moved.shape == hu.shape
    assert (moved == 40).sum() == (hu == 40).sum()
    assert (moved[:20] == -1024).all()
    assert (hu[0, 60], hu[0, 0]) == (40, -1000)


@settings(max_examples=60, deadline=None)
@given(st.floats(-200, 200), st.floats(-200, 200))
def test_a_shift_preserves_the_shape(row: float, column: float) -> None:
    hu = np.arange(12 * 9, dtype=np.int16).reshape(12, 9)
    moved = shift_to_centre(hu, (row, column))
    down, right = round(5.5 - row), round(4 - column)
    for r in range(12):
        for c in range(9):
            inside = 0 <= r - down < 12 and 0 <= c - right < 9
            assert moved[r, c] == (hu[r - down, c - right] if inside else -1024)


def test_steps_of_missing_positions_are_missing() -> None:
    steps = steps_between(np.zeros(4, int), np.array([3, 1, 0, 2]), np.array([9.0, 2, np.nan, 4]))
    np.testing.assert_array_equal(steps, [5, np.nan, np.nan, 2])


def test_degrees_between_directions() -> None:
    one = np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 2], [0, 0, 0]])
    other = np.array([[1.0, 0, 0], [0, 3, 0], [0, 0, -1], [1, 0, 0]])
    np.testing.assert_allclose(degrees_between(one, other), [0, 90, 180, np.nan])
