"""At most 2,000 points of a curve, with the smallest and largest value of each bucket."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ichx.store import EpochRecord
from ichx.web.curves import MAX_POINTS, Stage, curves, extremes, position


@given(st.lists(st.floats(), max_size=300), st.integers(4, 60))
def test_thinned_values_keep_ends_and_extremes(values: list[float], limit: int) -> None:
    index = extremes(values, limit)
    assert len(index) <= limit
    assert index == sorted(set(index))
    if len(values) <= limit:
        assert index == list(range(len(values)))
        return
    assert (index[0], index[-1]) == (0, len(values) - 1)
    kept = [values[i] for i in index if math.isfinite(values[i])]
    finite = [value for value in values if math.isfinite(value)]
    assert (min(kept, default=0), max(kept, default=0)) == (min(finite, default=0), max(finite, default=0))
    longest = max(after - before for before, after in pairwise(index))
    assert longest <= 2 * math.ceil((len(values) - 2) / ((limit - 2) // 2))  # no part of the curve is left out


def test_a_long_curve_has_2000_points_and_each_peak() -> None:
    stages = (Stage("one", 1, 5000),)
    peaks = {17: 9.0, 2500: -9.0, 4998: 7.0}
    records = [EpochRecord("one", 0, i + 1, {"loss": peaks.get(i, 1.0)}) for i in range(5000)]
    ((xs, ys),) = curves(stages, records).values()
    assert len(xs) <= MAX_POINTS
    assert [(x, y) for x, y in zip(xs, ys, strict=True) if y != 1.0] == [(i + 1, y) for i, y in peaks.items()]


def test_positions_count_through_the_planned_stages_and_gaps_are_none() -> None:
    stages = (Stage("a", 1, 3), Stage("b", 4, 9))
    records = [
        EpochRecord("a", 0, 1, {"loss": math.nan, "score": 1.0}),
        EpochRecord("b", 1, 2, {"loss": math.inf}),
        EpochRecord("later", 2, 1, {"loss": 0.5}),
    ]
    assert [position(stages, record) for record in records] == [1, 5, 10]
    assert curves(stages, records) == {"loss": [[1, 5, 10], [None, None, 0.5]], "score": [[1], [1.0]]}
