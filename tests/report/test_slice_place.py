"""The place of a slice in its series, compared with a loop over the series."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.report.slice_place import SlicePlace, slice_places

FLAGS = ("by_number", "not_axial")


def catalog(sizes: list[int], upward: list[bool], seed: int = 0) -> pd.DataFrame:
    """Return the slices of series in random order; positions rise with `order`, heights (z) only if `upward`."""
    rng = np.random.default_rng(seed)
    parts = []
    for code, (size, up) in enumerate(zip(sizes, upward, strict=True)):
        along = np.cumsum(rng.uniform(1, 6, size)) - 200
        z = along if up else -along
        part = {"code": code, "order": np.arange(size), "position": along, "pos_z": 0.95 * z}
        parts.append(pd.DataFrame(part | dict.fromkeys(FLAGS, False)))
    return pd.concat(parts).sample(frac=1, random_state=seed).reset_index(drop=True)


def places(slices: pd.DataFrame) -> list[SlicePlace]:
    return slice_places(slices, slices["code"].to_numpy(np.int64), np.arange(len(slices)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(2, 12), st.booleans()), min_size=1, max_size=5), st.integers(0, 99))
def test_slices_are_counted_from_head_to_foot(series: list[tuple[int, bool]], seed: int) -> None:
    slices = catalog([size for size, _ in series], [up for _, up in series], seed)
    for row, place in enumerate(places(slices)):
        others = slices[slices["code"] == slices.loc[row, "code"]]
        above = [z for z in others["pos_z"] if z > slices.loc[row, "pos_z"]]
        top = others.loc[others["pos_z"].idxmax(), "position"]
        assert (place.number, place.count, place.oriented) == (len(above) + 1, len(others), True)
        assert place.distance == pytest.approx(abs(slices.loc[row, "position"] - top))
        assert place.length == pytest.approx(others["position"].max() - others["position"].min())
        assert place.share == pytest.approx(place.distance / place.length)


@pytest.mark.parametrize("flag", FLAGS)
def test_without_an_axis_the_order_of_the_catalog_counts(flag: str) -> None:
    slices = catalog([5], [True])
    slices[flag] = True
    if flag == "by_number":
        slices["position"] = np.nan
    for row, place in enumerate(places(slices)):
        assert (place.number, place.oriented) == (slices.loc[row, "order"] + 1, False)
        assert (place.distance is None) == (place.length is None) == (flag == "by_number")
        assert 0 <= place.share <= 1
    assert sorted(place.share for place in places(slices))[::4] == [0, 1]


def test_a_single_slice_and_slices_at_one_position_have_a_share() -> None:
    (only,) = places(catalog([1], [True]))
    assert only == SlicePlace(number=1, count=1, oriented=False, distance=0.0, length=0.0)
    assert only.share == 0
    slices = catalog([3], [True])
    slices["position"] = slices["pos_z"] = 7.0
    assert sorted(place.share for place in places(slices)) == [0, 0.5, 1]
    assert not any(place.oriented for place in places(slices))


def test_missing_heights_leave_the_direction_unknown() -> None:
    slices = catalog([4], [True])
    slices["pos_z"] = np.nan
    found = places(slices)
    assert {place.oriented for place in found} == {False}
    assert [place.number for place in found] == (slices["order"] + 1).tolist()
