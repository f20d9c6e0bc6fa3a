"""Augmentations that plugins bring: plain functions and albumentations pipelines."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.cache.mask_cache import ensure_masks
from ichx.cache.mask_file import MaskCache
from ichx.errors import InvalidInputError
from ichx.loading.batch_reader import centre_crop
from ichx.loading.loader import SliceLoader
from ichx.loading.plugin_augmentation import PluginAugmentation
from ichx.loading.sampling import EpochAddress
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

PLAIN = Recipe(
    plugin="mine",
    model=ModelRecipe("none"),
    input=InputRecipe(size=48, crop=40, centre="series"),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
    augmentation=AugmentationRecipe(probability=0.0),
)
VARIED = dataclasses.replace(PLAIN, augmentation=AugmentationRecipe(probability=1.0))
ADDRESS = EpochAddress(seed=5, fold=1, stage=0, epoch=2)
ROWS = np.array([9, 3, 17, 0, 12, 5, 1, 16, 2, 8, 7, 13])


def shift_values(recipe: Recipe) -> Any:
    """Return a function that adds a random number of HU and turns the image by a random multiple of 90 degrees."""

    def augment(hu: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> tuple[Any, Any]:
        turns = int(rng.integers(4))
        hu += rng.uniform(1, 20)  # the copy of the loader
        return np.rot90(hu, turns), None if mask is None else np.rot90(mask, turns)

    return augment


def geometric_pipeline(recipe: Recipe) -> Any:
    """Return an albumentations pipeline of spatial transforms with default borders."""
    import albumentations

    return albumentations.Compose(
        [
            albumentations.Affine(translate_px={"x": (8, 12), "y": (-4, 4)}, rotate=(-20, 20), p=1),
            albumentations.ElasticTransform(alpha=20, sigma=6, p=0.5),
            albumentations.RandomRotate90(p=0.5),
        ]
    )


def intensity_pipeline(recipe: Recipe) -> Any:
    """Return an albumentations pipeline of intensity transforms."""
    import albumentations

    return albumentations.Compose(
        [
            albumentations.RandomBrightnessContrast(brightness_limit=(0.01, 0.02), contrast_limit=0, p=1),
            albumentations.GaussNoise(std_range=(0.001, 0.002), p=1),
        ]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, pd.DataFrame, MaskCache]:
    """Return 18 slices in series of three. The masks of the even rows mark their tissue."""
    root: Path = tmp_path_factory.mktemp("plugin")
    images = [head(centre=(26 + index % 5, 30 + index % 7), seed=index) for index in range(18)]
    slices = write_catalog(root / "source", images)
    slices["series"] = [f"series{index // 3}" for index in range(18)]
    cache = ensure_cache(root, "d", root / "source", slices, CacheSpec(48, "series", "bilinear"), processes=1)
    pngs = {row: imagecodecs.png_encode((images[row] > -500).astype(np.uint8)) for row in range(0, 18, 2)}
    return cache, slices, ensure_masks(cache, pngs, "digest", root / "source", slices)


def samples(loader: SliceLoader, rows: np.ndarray = ROWS, **options: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return HU and mask of each row."""
    found = {}
    for batch in loader.training_batches(rows, ADDRESS, **options):
        masks = torch.zeros(len(batch.rows)) if batch.masks is None else batch.masks
        found |= dict(zip(batch.rows.tolist(), zip(batch.hu.numpy().copy(), masks.numpy(), strict=True), strict=True))
    return found


def same(first: dict[int, Any], second: dict[int, Any]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(a, b) for row in first for a, b in zip(first[row], second[row], strict=True)
    )


@pytest.mark.parametrize("build", [shift_values, geometric_pipeline, intensity_pipeline])
@pytest.mark.parametrize("neighbours", [0, 1])
def test_result_does_not_depend_on_workers_order_or_resume(data, build, neighbours: int) -> None:
    cache, slices, masks = data
    recipe = dataclasses.replace(VARIED, input=dataclasses.replace(VARIED.input, neighbours=neighbours))
    recipe = dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, windows=((40.0, 80.0),) * 3))
    loader = SliceLoader(cache, slices, recipe, 0, masks, build)
    first = samples(loader)
    assert same(samples(dataclasses.replace(loader, workers=2)), first)
    assert same(samples(loader, ROWS[::-1]), first)
    assert same(samples(loader, start=1), {row: first[row] for row in ROWS[4:].tolist()})
    without = samples(dataclasses.replace(loader, build_augmentation=None))
    assert not any(np.array_equal(first[row][0], without[row][0]) for row in first)


def test_function_follows_the_transforms_of_the_recipe(data) -> None:
    cache, slices, masks = data
    for recipe in (PLAIN, VARIED):
        base = samples(SliceLoader(cache, slices, recipe, 0, masks))
        found = samples(SliceLoader(cache, slices, recipe, 0, masks, shift_values))
        shifts = set()
        for row, (hu, mask) in found.items():
            turned = [(np.rot90(base[row][0], k), np.rot90(base[row][1], k)) for k in range(4)]
            (k, shift), *_ = [
                (k, difference[0, 0])
                for k, (image, _) in enumerate(turned)
                if np.ptp(difference := hu.astype(int) - image) <= 1  # rounded HU
            ]
            assert 0 < shift <= 21
            assert np.array_equal(mask, turned[k][1])
            shifts.add(shift)
        assert len(shifts) > 4
    for batch in SliceLoader(cache, slices, PLAIN, 0, masks, shift_values).inference_batches(ROWS):
        for hu, row in zip(batch.hu.numpy(), batch.rows.tolist(), strict=True):
            assert np.array_equal(hu, centre_crop(cache.read(row), 40))


def test_all_slices_of_a_stack_get_the_same_draws(tmp_path: Path) -> None:
    images = [head(seed=number // 3) for number in range(12)]  # three identical slices per series
    slices = write_catalog(tmp_path / "source", images)
    slices["series"] = [f"series{number // 3:02}" for number in range(12)]
    cache = ensure_cache(tmp_path, "d", tmp_path / "source", slices, CacheSpec(48, "series", "bilinear"), processes=1)
    recipe = dataclasses.replace(PLAIN, input=dataclasses.replace(PLAIN.input, neighbours=1, windows=((40.0, 80.0),)))
    for build in (shift_values, geometric_pipeline):
        found = samples(SliceLoader(cache, slices, recipe, build_augmentation=build), np.arange(12))
        assert len(found) == 12
        for stack, _ in found.values():
            assert np.array_equal(stack[0], stack[1])
            assert np.array_equal(stack[1], stack[2])


def test_pipeline_transforms_slice_and_mask_alike_and_fills_with_air(data) -> None:
    cache, slices, masks = data
    rows = np.arange(0, 16, 2)  # with masks
    recipe = dataclasses.replace(PLAIN, input=dataclasses.replace(PLAIN.input, crop=0))
    found = samples(SliceLoader(cache, slices, recipe, 0, masks, geometric_pipeline), rows)
    for hu, mask in found.values():
        tissue = hu > -500
        assert ((mask > 0) & tissue).sum() / ((mask > 0) | tissue).sum() > 0.85
        assert hu.min() == -1024  # exposed by the shift: the slices themselves end at -1000
        assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("fill", [0, -1024])
def test_pipeline_without_change_is_exact(fill: int) -> None:
    import albumentations

    hu = np.arange(-1024, 32768, 528).astype(np.int16).reshape(8, 8)
    augmentation = PluginAugmentation(lambda recipe: albumentations.Affine(translate_px=2, fill=fill, p=1), PLAIN)
    out, mask = augmentation(hu, None, np.random.default_rng(0))
    assert mask is None
    assert np.array_equal(out[2:, 2:], hu[:-2, :-2])
    assert (out[:2] == -1024).all()


def test_intensity_transforms_of_albumentations_work_in_hu() -> None:
    augmentation = PluginAugmentation(intensity_pipeline, PLAIN)
    hu = np.full((64, 64), 40, np.int16)
    out, _ = augmentation(hu, None, np.random.default_rng(0))
    assert 40 + 0.01 * 4095 - 3 < out.mean() < 40 + 0.02 * 4095 + 3
    assert 0.001 * 4095 * 0.9 < out.std() < 0.002 * 4095 * 1.1


def test_transforms_of_a_pipeline_have_independent_draws() -> None:
    import albumentations

    flips = albumentations.Compose([albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)])
    augmentation = PluginAugmentation(lambda recipe: flips, PLAIN)
    hu = np.arange(16, dtype=np.int16).reshape(4, 4)
    results = [augmentation(hu, None, np.random.default_rng(seed))[0].tobytes() for seed in range(400)]
    counts = [results.count(each.tobytes()) for each in (hu, hu[:, ::-1], hu[::-1], hu[::-1, ::-1])]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 on average


@pytest.mark.parametrize(
    ("augment", "value"),
    [
        (lambda hu, mask, rng: hu, "ndarray"),
        (lambda hu, mask, rng: (hu[1:], mask), r"\(7, 8\)"),
        (lambda hu, mask, rng: (hu * np.nan, mask), r"\(8, 8\)"),
        (lambda hu, mask, rng: (hu, mask.astype(float)), "uint8"),
        (lambda hu, mask, rng: (hu, None), "uint8"),
    ],
)
def test_invalid_result_is_an_error(augment: Any, value: str) -> None:
    augmentation = PluginAugmentation(lambda recipe: augment, PLAIN)
    with pytest.raises(InvalidInputError, match=f"'mine'.*{value}"):
        augmentation(np.zeros((8, 8), np.int16), np.zeros((8, 8), np.uint8), np.random.default_rng(0))


def test_invalid_builder_is_an_error(data) -> None:
    cache, slices, _ = data
    loader = SliceLoader(cache, slices, PLAIN, build_augmentation=lambda recipe: 3)
    with pytest.raises(InvalidInputError, match="'mine'.*int"):
        loader.training_batches(ROWS, ADDRESS)
    loader = dataclasses.replace(loader, workers=1, build_augmentation=lambda recipe: shift_values(recipe))
    with pytest.raises(InvalidInputError, match="'mine'.*lambda"):
        loader.training_batches(ROWS, ADDRESS)


def test_error_of_a_result_reaches_the_parent(data) -> None:
    cache, slices, _ = data
    loader = SliceLoader(cache, slices, PLAIN, workers=1, build_augmentation=cropping_pipeline)
    with pytest.raises(InvalidInputError, match=r"'mine'.*\(48, 48\).*\(32, 32\)"):
        next(loader.training_batches(ROWS, ADDRESS))


def cropping_pipeline(recipe: Recipe) -> Any:
    import albumentations

    return albumentations.Compose([albumentations.RandomCrop(32, 32)])


def test_examples_of_the_docs_augment_a_slice() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    section = page.partition("## A custom augmentation")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(examples) == 2
    hu = head(seed=1)
    for example in examples:
        names: dict[str, Any] = {}
        exec(example, names)
        augmentation = PluginAugmentation(names["build_augmentation"], PLAIN)
        out = [augmentation(hu, (hu > -500).astype(np.uint8), np.random.default_rng(seed)) for seed in range(8)]
        assert any(not np.array_equal(image, hu) for image, _ in out)
        assert {(image.dtype, mask.dtype) for image, mask in out} == {(np.dtype(np.int16), np.dtype(np.uint8))}
