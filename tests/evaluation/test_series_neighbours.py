"""Neighbours of slices: sequences, positions and subsets."""

import numpy as np
import pandas as pd

from ichx.evaluation.series_neighbours import SeriesNeighbours


def test_sequences_by_hand() -> None:
    neighbours = SeriesNeighbours(np.array([1, 0, 1, 0, 1, 2]), np.array([5, 1, 2, 0, 9, 0]))
    assert [rows.tolist() for rows in neighbours.sequences()] == [[3, 1], [2, 0, 4], [5]]
    assert np.isnan(neighbours.position).tolist() == [True] * 6
    taken = neighbours.take(np.array([4, 5, 2]))
    assert [rows.tolist() for rows in taken.sequences()] == [[2, 0], [1]]
    assert neighbours.take(np.zeros(6, bool)).sequences() == []


def test_positions_are_known_for_an_entire_series_or_not_at_all() -> None:
    catalog = pd.DataFrame(
        {
            "study": ["s"] * 5,
            "series": ["a", "a", "b", "b", "b"],
            "run": 0,
            "order": [1, 0, 0, 1, 2],
            "position": [7.5, 2.5, 1.0, np.nan, 3.0],
            "by_number": [False, False, True, True, True],
        }
    )
    neighbours = SeriesNeighbours.of(catalog)
    np.testing.assert_array_equal(neighbours.position, [7.5, 2.5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(neighbours.take(np.array([1, 0])).position, [2.5, 7.5])
    assert [rows.tolist() for rows in neighbours.sequences()] == [[1, 0], [2, 3, 4]]
