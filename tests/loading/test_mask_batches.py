"""Masks in batches: transformed like their slices."""

import dataclasses
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.cache.mask_cache import ensure_masks
from ichx.cache.mask_file import MaskCache
from ichx.cache.resize import fit_mask
from ichx.errors import CorruptFileError
from ichx.labels import LABELS, UNKNOWN_MASK
from ichx.loading.loader import SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

ADDRESS = EpochAddress(seed=0, fold=0, stage=0, epoch=1)


def blob(number: int, rows: int = 64, columns: int = 64) -> np.ndarray:
    """Return a mask with a disc whose subtype, position and size depend on `number`."""
    y, x = np.mgrid[:rows, :columns]
    disc = (y - 22 - number % 9) ** 2 + (x - 24 - number % 7) ** 2 < (8 + number % 4) ** 2
    return np.where(disc, 1 + number % 5, 0).astype(np.uint8)


def as_hu(mask: np.ndarray) -> np.ndarray:
    """Return a slice that shows its mask: 500 HU and more over a head of 0 HU in air."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    skull = (y - 30) ** 2 + (x - 33) ** 2 < 26**2
    return np.where(mask > 0, 500 * mask.astype(np.int16), np.where(skull, 0, -1000)).astype(np.int16)


@dataclasses.dataclass
class Data:
    source: Path
    slices: pd.DataFrame
    pngs: dict[int, bytes]
    folder: Path

    def caches(self, centre: str, size: int = 48) -> tuple[Cache, MaskCache]:
        spec = CacheSpec(size, centre, "bilinear")
        cache = ensure_cache(self.folder, "d", self.source, self.slices, spec, processes=1)
        return cache, ensure_masks(cache, self.pngs, "digest", self.source, self.slices)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Return 18 slices that show their masks; row 3 has no mask, and row 5 is negative."""
    root = tmp_path_factory.mktemp("masks")
    masks = [blob(number) for number in range(18)]
    masks[5][:] = 0
    slices = write_catalog(root / "source", [as_hu(one) for one in masks])
    slices[list(LABELS)] = 1.0
    slices.loc[5, list(LABELS)] = 0.0
    pngs = {row: imagecodecs.png_encode(one) for row, one in enumerate(masks) if row not in (3, 5)}
    return Data(root / "source", slices, pngs, root)


def recipe(**augmentation: float) -> Recipe:
    off = dict.fromkeys(("shift", "scale", "rotate", "grid_limit", "anchors"), 0.0) | {"hflip": False}
    return Recipe(
        plugin="tiny",
        model=ModelRecipe("none"),
        input=InputRecipe(size=48, crop=40),
        stage=(StageRecipe("only", "all", 1, 1e-3),),
        batch=6,
        augmentation=AugmentationRecipe(**(off | {"probability": 1.0} | augmentation)),
    )


def agreement(hu: np.ndarray, mask: np.ndarray) -> float:
    """Return the intersection over union of a mask and the mask that its slice shows."""
    value = int(mask.max())
    shown = hu > 250 * value if value else hu > 250
    return float((shown & (mask > 0)).sum() / max((shown | (mask > 0)).sum(), 1))


@pytest.mark.parametrize("centre", ["none", "slice", "series"])
@pytest.mark.parametrize(
    "augmentation",
    [
        {},
        {"hflip": True},
        {"shift": 0.1, "scale": 0.2, "rotate": 40.0},
        {"grid_limit": 0.3, "grid_steps": 6},
        {"anchors": 8.0},
        {"elastic_alpha": 120.0, "elastic_sigma": 8.0},
        {"hflip": True, "rotate": 25.0, "grid_limit": 0.2, "anchors": 5.0, "elastic_alpha": 60.0},
    ],
    ids=lambda settings: "+".join(settings) or "none",
)
def test_masks_are_transformed_like_their_slices(shown: Data, centre: str, augmentation: dict[str, float]) -> None:
    cache, masks = shown.caches(centre)
    rows = np.array([0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13])
    moved = still = 0
    for batch in SliceLoader(cache, shown.slices, recipe(**augmentation), masks=masks).training_batches(rows, ADDRESS):
        assert batch.masks is not None
        for row, hu, mask in zip(batch.rows.tolist(), batch.hu.numpy(), batch.masks.numpy(), strict=True):
            assert set(np.unique(mask)) == {0, 1 + row % 5}
            assert agreement(hu, mask) > 0.8
            unmoved = masks.read(row)[4:44, 4:44]
            moved += not np.array_equal(mask, unmoved)
            still += np.array_equal(mask, unmoved)
    assert (moved > 8) if augmentation else (still == len(rows))


def test_mask_of_a_stack_is_that_of_its_centre(shown: Data) -> None:
    cache, masks = shown.caches("series")
    varied = recipe(hflip=True, rotate=25.0)
    stacked = dataclasses.replace(varied, input=dataclasses.replace(varied.input, centre="series", neighbours=1))
    rows = np.array([1, 2, 7, 8, 10, 11])
    (batch,) = SliceLoader(cache, shown.slices, stacked, masks=masks).training_batches(rows, ADDRESS)
    assert batch.masks is not None
    assert batch.hu.shape == (6, 3, 40, 40)
    assert batch.masks.shape == (6, 40, 40)
    for hu, mask in zip(batch.hu.numpy(), batch.masks.numpy(), strict=True):
        assert agreement(hu[1], mask) > 0.8


def test_pixels_from_outside_are_background(shown: Data) -> None:
    """After a rotation by 45 degrees the corners come from outside."""
    full = {row: imagecodecs.png_encode(np.full((64, 64), 4, np.uint8)) for row in range(18)}
    data = dataclasses.replace(shown, pngs=full)
    spec = CacheSpec(48, "none", "bilinear")
    cache = ensure_cache(data.folder, "d", data.source, data.slices, spec, processes=1)
    masks = ensure_masks(cache, full, "full", data.source, data.slices)
    loader = SliceLoader(cache, data.slices, recipe(rotate=45.0), masks=masks)
    (batch,) = loader.training_batches(np.arange(6), ADDRESS)
    assert batch.masks is not None
    assert set(batch.masks.unique().tolist()) == {0, 4}


def test_missing_masks_are_unknown_and_those_of_negative_slices_empty(shown: Data) -> None:
    cache, masks = shown.caches("slice")
    assert masks.known.tolist() == [row != 3 for row in range(18)]
    (batch,) = SliceLoader(cache, shown.slices, recipe(), masks=masks).inference_batches(
        np.arange(18), batch=18, masks=True
    )
    assert batch.masks is not None
    assert batch.masks.dtype == torch.uint8
    assert (batch.masks[3] == UNKNOWN_MASK).all()
    assert not batch.masks[5].any()
    assert (batch.masks != UNKNOWN_MASK).all(dim=2).all(dim=1).tolist() == masks.known.tolist()


def test_masks_do_not_depend_on_workers_or_change_slices(shown: Data) -> None:
    cache, masks = shown.caches("slice")
    varied = recipe(hflip=True, rotate=25.0, elastic_alpha=60.0)
    loader = SliceLoader(cache, shown.slices, varied, masks=masks)
    loaders = dataclasses.replace(loader, masks=None), loader, dataclasses.replace(loader, workers=2)
    epochs = [list(each.training_batches(np.arange(18), ADDRESS)) for each in loaders]
    for plain, first, second in zip(*epochs, strict=True):
        assert plain.masks is None
        assert first.masks is not None
        assert second.masks is not None
        assert torch.equal(first.masks, second.masks)
        assert torch.equal(plain.hu, first.hu)


def test_prepared_masks_are_reused_and_damage_is_detected(shown: Data, tmp_path: Path) -> None:
    data = dataclasses.replace(shown, folder=tmp_path)
    _, masks = data.caches("slice")
    before = masks.path.stat().st_mtime_ns
    assert data.caches("slice")[1].path.stat().st_mtime_ns == before
    content = bytearray(masks.path.read_bytes())
    content[5] ^= 255
    masks.path.write_bytes(content)
    damaged = data.caches("slice")[1]
    with pytest.raises(CorruptFileError, match=str(masks.path)):
        damaged.read(0)
    masks.path.write_bytes(content[:-10])  # truncated: rebuilt
    assert np.array_equal(data.caches("slice")[1].read(0), shown.caches("slice")[1].read(0))


def test_rectangular_slices(tmp_path: Path) -> None:
    masks = [blob(number, 64, 48) for number in range(2)]
    slices = write_catalog(tmp_path / "source", [as_hu(one) for one in masks])
    data = Data(tmp_path / "source", slices, {i: imagecodecs.png_encode(m) for i, m in enumerate(masks)}, tmp_path)
    for centre in ("none", "slice"):
        cache, prepared = data.caches(centre)
        for row in range(2):
            mask = prepared.read(row)
            assert mask is not None
            assert agreement(cache.read(row), mask) > 0.8


def test_resizing_creates_no_subtype() -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:20, 5:15], mask[20:30, 5:15] = 1, 5
    for size in (16, 33, 100):
        small = fit_mask(mask, size)
        assert small.shape == (size, size)
        assert set(np.unique(small)) == {0, 1, 5}
