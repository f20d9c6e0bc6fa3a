"""Fields in millimetres: the same head at the same scale, whatever the spacing; masks and maps follow."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.display import field_shares, place_map
from ichx.cache.hu_cache import CacheSpec, cache_key
from ichx.cache.resize import crop_field, fit_mask, fit_square, pad_to_square

AIR = -1024


def disc(shape: tuple[int, int], spacing: tuple[float, float], radius: float = 60.0) -> np.ndarray:
    """Return a disc of `radius` mm in the middle, 40 HU in air, with a brighter spot on its upper right."""
    y = (np.arange(shape[0]) - (shape[0] - 1) / 2)[:, None] * spacing[0]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2)[None] * spacing[1]
    hu = np.where(x**2 + y**2 < radius**2, 40, AIR)
    return np.where((x - 20) ** 2 + (y + 30) ** 2 < 100, 400, hu).astype(np.int16)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((512, 512), (0.4, 0.4)), ((512, 512), (0.7, 0.7)), ((256, 256), (0.9, 0.9)), ((400, 512), (0.5, 0.4))],
)
def test_the_scale_does_not_depend_on_spacing_and_shape(shape: tuple[int, int], spacing: tuple[float, float]) -> None:
    field, size = 200.0, 100  # 2 mm a pixel
    found = fit_square(crop_field(disc(shape, spacing), field, spacing), size, "area")
    expected = disc((size, size), (2.0, 2.0))
    assert found.shape == (size, size)
    assert np.mean(np.abs(found.astype(int) - expected) > 60) < 0.03, "only at borders"
    assert abs(int((found > -500).sum()) - math.pi * 30**2) < 60
    row, column = np.argwhere(found > 300).mean(0)
    assert (row, column) == pytest.approx((49.5 - 15, 49.5 + 10), abs=0.6)


@pytest.mark.parametrize("field", [40.0, 150.0, 400.0])
def test_what_lies_outside_is_air(field: float) -> None:
    image = np.zeros((100, 120), np.int16)
    part = crop_field(image, field, (1.0, 1.0))
    assert part.shape == (round(field), round(field))
    inside = min(100, round(field)) * min(120, round(field))
    assert (part == 0).sum() == inside
    assert (part == AIR).sum() == part.size - inside


@pytest.mark.parametrize("spacing", [(math.nan, math.nan), (0.0, 0.5), (-1.0, -1.0), (math.inf, 1.0)])
def test_an_image_without_spacing_stays_complete(spacing: tuple[float, float]) -> None:
    image = disc((64, 64), (3.0, 3.0))
    assert crop_field(image, 100.0, spacing) is image


def test_masks_are_cropped_alike() -> None:
    spacing, field = (0.5, 0.4), 150.0
    hu = disc((400, 512), spacing)
    mask = (hu > 300).astype(np.uint8) * 3
    small = fit_mask(crop_field(mask, field, spacing, 0), 150)
    assert set(np.unique(small)) == {0, 3}
    bright = fit_square(crop_field(hu, field, spacing), 150, "bilinear") > 300
    assert np.mean((small > 0) != bright) < 0.002


def test_a_cache_reads_the_field_of_its_catalog(tmp_path: Path) -> None:
    slices = write_catalog(tmp_path / "source", [head(centre=(26 + seed, 30), seed=seed) for seed in range(4)])
    slices["spacing_row"], slices["spacing_column"] = [4.0, 4.0, 2.0, math.nan], [4.0, 4.0, 2.0, math.nan]

    def cache(spec: CacheSpec):
        return ensure_cache(tmp_path / "cache", "d", tmp_path / "source", slices, spec, processes=1)

    full = cache(CacheSpec(64, "slice", "bilinear"))
    field = cache(CacheSpec(48, "slice", "bilinear", 160.0))
    assert field.spec.field == 160.0
    assert field.key != full.key
    for row, pixels in ((0, 40), (1, 40), (2, 80)):
        own = fit_square(crop_field(full.read(row), pixels, (1.0, 1.0)), 48, "bilinear")
        assert np.abs(field.read(row).astype(int) - own).max() <= 1
    assert np.array_equal(field.read(3), fit_square(full.read(3), 48, "bilinear")), "unknown spacing"


def test_the_key_without_a_field_is_that_of_older_versions() -> None:
    spec = CacheSpec(48, "slice", "bilinear")
    assert spec.to_dict() == {"size": 48, "centre": "slice", "resize": "bilinear"}
    assert cache_key("x", spec) == cache_key("x", CacheSpec(48, "slice", "bilinear", 0.0))
    assert cache_key("x", spec) != cache_key("x", CacheSpec(48, "slice", "bilinear", 1.0))


@pytest.mark.parametrize("shown_field", [0.0, 120.0, 200.0])
@pytest.mark.parametrize("field", [0.0, 100.0, 260.0])
def test_a_map_is_placed_on_the_displayed_square(field: float, shown_field: float) -> None:
    """A map of the bright spot in one square has its middle on the spot in the other one, also after a move."""
    shape, spacing, edge = (512, 400), (0.5, 0.5), 192
    row = {"rows": 512, "columns": 400, "spacing_row": 0.5, "spacing_column": 0.5}
    hu = disc(shape, spacing)
    shifted = np.roll(hu, (16, -24), (0, 1))  # pixels down and to the right

    def square(image: np.ndarray, wanted: float) -> np.ndarray:
        image = crop_field(image, wanted, spacing) if wanted else image
        return cv2.resize(pad_to_square(image), (edge, edge), interpolation=cv2.INTER_AREA)

    spot = np.clip((square(hu, field).astype(np.float32) - 40) / 360, 0, 1)
    placed = place_map(spot, field_shares(row, field), field_shares(row, shown_field), (16 / 512, -24 / 512))
    expected = np.clip((square(shifted, shown_field).astype(np.float32) - 40) / 360, 0, 1)

    def middle(image: np.ndarray) -> np.ndarray:
        return (np.argwhere(image > 0) * image[image > 0][:, None]).sum(0) / image.sum()

    assert middle(placed) == pytest.approx(middle(expected), abs=0.5)
    assert placed.sum() == pytest.approx(expected.sum(), rel=0.1)
