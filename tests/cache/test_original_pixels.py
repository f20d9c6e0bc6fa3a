"""Maps on the pixels of a slice: what a cache does to a mask is undone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.original_pixels import ImagePlace, on_original
from ichx.cache.resize import crop_field, fit_mask
from ichx.ct.geometry import shift_to_centre


def cached(mask: np.ndarray, spec: CacheSpec, place: ImagePlace) -> np.ndarray:
    """Return a mask as the cache has it."""
    if np.isfinite(place.centre).all():
        mask = shift_to_centre(mask, place.centre, 0)
    if spec.field:
        mask = crop_field(mask, spec.field, place.spacing, 0)
    return fit_mask(mask, spec.size)


@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.booleans(),
    st.sampled_from([0.0, 12.0, 80.0]),
    st.sampled_from([(0.5, 0.5), (0.5, 0.4), (float("nan"), float("nan"))]),
    st.integers(0, 2**32 - 1),
)
def test_a_mask_that_was_enlarged_comes_back(
    shape: tuple[int, int], moved: bool, field: float, spacing: tuple[float, float], seed: int
) -> None:
    """Four cached pixels for each one of the slice: all that the middle of the cache shows is found again."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    centre = tuple((np.array(shape) * rng.uniform(0.3, 0.7, 2)).tolist()) if moved else (float("nan"),) * 2
    shown = max(shape) if not field or np.isnan(spacing[0]) else max(round(field / value) for value in spacing)
    spec, place = CacheSpec(4 * shown, "slice" if moved else "none", "area", field), ImagePlace(shape, spacing, centre)
    square = cached(mask, spec, place)
    margin = 4
    inner = square[margin:-margin, margin:-margin].astype(np.float32)
    found, covered = on_original(np.stack([inner, 1 - inner], axis=2), spec, place)
    assert found.shape == (*shape, 2)
    if not field or np.isnan(spacing[0]):  # whole pixels: a field with oblong pixels is resampled twice
        assert np.array_equal(found[covered, 0] > 0.5, mask[covered] > 0)
    assert np.array_equal(found[covered].sum(axis=1), np.ones(covered.sum(), np.float32))
    assert not found[~covered].any()
    if not moved and not field:
        assert covered[2:-2, 2:-2].all()


def test_pixels_outside_the_field_are_not_covered() -> None:
    spec, place = CacheSpec(20, "none", "area", 10.0), ImagePlace((40, 40), (0.5, 0.5), (float("nan"),) * 2)
    found, covered = on_original(np.ones((20, 20, 1), np.float32), spec, place)
    expected = np.zeros((40, 40), bool)
    expected[10:30, 10:30] = True
    assert np.array_equal(covered, expected)
    assert np.array_equal(found[..., 0] == 1, expected)


@pytest.mark.parametrize("centre", [(10.0, 15.0), (29.4, 22.0)])
def test_pixels_that_centring_moved_out_are_not_covered(centre: tuple[float, float]) -> None:
    place = ImagePlace((40, 40), (0.5, 0.5), centre)
    rows = np.tile(np.arange(40, dtype=np.float32)[:, None, None], (1, 40, 1))
    found, covered = on_original(rows, CacheSpec(40, "slice", "area"), place)
    moved = shift_to_centre(np.arange(1600).reshape(40, 40), centre, -1)
    assert set(np.flatnonzero(covered)) == set(moved[moved >= 0])
    down = round(19.5 - centre[0])
    assert np.array_equal(found[..., 0][covered], np.where(covered)[0] + down)
