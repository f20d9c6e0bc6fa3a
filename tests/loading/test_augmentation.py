import dataclasses
import os
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ichx.loading.augmentation import Augmenter, affine_matrix
from ichx.recipe import AugmentationRecipe

OFF = AugmentationRecipe(
    probability=1.0, hflip=False, shift=0.0, scale=0.0, rotate=0.0, grid_limit=0.0, anchors=0.0, elastic_alpha=0.0
)
ONE = {
    "hflip": dataclasses.replace(OFF, hflip=True),
    "affine": dataclasses.replace(OFF, shift=0.05, scale=0.075, rotate=25.0),
    "grid": dataclasses.replace(OFF, grid_limit=0.25),
    "anchors": dataclasses.replace(OFF, anchors=5.0),
    "elastic": dataclasses.replace(OFF, elastic_alpha=60.0),
}
ALL = dataclasses.replace(AugmentationRecipe(), probability=1.0, elastic_alpha=60.0)


def image(size: int = 96, dtype: type = np.int16) -> np.ndarray:
    noise = np.random.default_rng(0).normal(40, 300, (size, size)).astype(np.float32)
    return np.rint(cv2.GaussianBlur(noise, (0, 0), 2)).astype(dtype)


def augment(recipe: AugmentationRecipe, hu: np.ndarray, seed: int) -> np.ndarray:
    """Return `hu` under the transform drawn with `seed`."""
    return Augmenter(recipe, len(hu)).draw(np.random.default_rng(seed))(hu).copy()


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_each_transform_changes_the_image_but_not_its_input(name, dtype):
    hu = image(dtype=dtype)
    original = hu.copy()
    out = augment(ONE[name], hu, 1)
    assert out.shape == hu.shape
    assert not np.array_equal(out, hu)
    assert np.array_equal(hu, original)


@pytest.mark.parametrize("name", ONE)
def test_int16_and_float32_give_the_same_result(name):
    assert np.array_equal(augment(ONE[name], image(), 2), augment(ONE[name], image(dtype=np.float32), 2))


def test_result_depends_only_on_image_and_generator():
    first = [augment(ALL, image(), seed) for seed in range(20)]
    np.random.seed(5)
    random.seed(5)
    augmenter = Augmenter(ALL, 96)
    second = [augmenter.draw(np.random.default_rng(seed))(image()).copy() for seed in reversed(range(20))]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(second), strict=True))


def test_global_random_state_is_unchanged():
    before = (np.random.get_state()[1].copy(), random.getstate())
    for seed in range(20):
        augment(ALL, image(), seed)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


def test_nothing_is_augmented_without_probability_or_transforms():
    hu = image()
    for recipe in (dataclasses.replace(ALL, probability=0.0), OFF):
        assert np.array_equal(augment(recipe, hu, 0), hu)


def test_one_transform_is_drawn_uniformly_with_the_probability():
    hu = image(32)
    recipe = dataclasses.replace(OFF, probability=0.75, hflip=True, anchors=3.0)
    augmenter = Augmenter(recipe, 32)
    outs = [augmenter.draw(np.random.default_rng(seed))(hu).copy() for seed in range(2000)]
    same = sum(np.array_equal(out, hu) for out in outs)
    flipped = sum(np.array_equal(out, hu[:, ::-1]) for out in outs)
    assert abs(same - 500) < 90  # 4.6 standard deviations
    assert abs(flipped - 750) < 100
    assert same + flipped < 1500


def test_flip_is_exact():
    assert np.array_equal(augment(ONE["hflip"], image(), 0), image()[:, ::-1])


@pytest.mark.parametrize("name", ["affine", "anchors", "elastic"])
def test_pixels_from_outside_are_air(name):
    recipe = dataclasses.replace(ONE[name], shift=0.3 if name == "affine" else 0.0)
    water = np.zeros((96, 96), np.int16)
    outs = [augment(recipe, water, seed) for seed in range(40)]
    assert min(out.min() for out in outs) < -300
    if name == "affine":
        assert min(out.min() for out in outs) == -1024
    assert max(out.max() for out in outs) == 0


def test_border_of_the_grid_is_reflected():
    water = np.zeros((96, 96), np.int16)
    assert all(not augment(ONE["grid"], water, seed).any() for seed in range(20))


def _moved(recipe: AugmentationRecipe, points: np.ndarray, seed: int, size: int = 200) -> np.ndarray:
    """Return where a draw moves `points` (k, 2), (x, y): the centroids of dots."""
    y, x = np.mgrid[:size, :size]
    found = []
    for point in points:
        dot = cv2.circle(np.full((size, size), -1024, np.float32), point, 8, 1000, -1)
        weight = augment(recipe, dot, seed) + 1024.0
        found.append([(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()])
    return np.array(found)


def test_affine_is_within_its_limits_with_one_scale_for_both_axes():
    points = np.array([[60, 60], [140, 60], [60, 140]])
    scales, angles, shifts = [], [], []
    for seed in range(200):
        moved = _moved(ONE["affine"], points, seed)
        across, down = (moved[1] - moved[0]) / 80, (moved[2] - moved[0]) / 80
        assert np.hypot(*across) == pytest.approx(np.hypot(*down), abs=0.005)
        assert across @ down == pytest.approx(0, abs=0.005)
        scales.append(np.hypot(*across))
        angles.append(np.degrees(np.arctan2(across[1], across[0])))
        shifts.append(moved[0] - 99.5 - np.column_stack([across, down]) @ (points[0] - 99.5))
    assert min(scales) == pytest.approx(0.925, abs=0.01)
    assert max(scales) == pytest.approx(1.075, abs=0.01)
    assert min(angles) == pytest.approx(-25, abs=1.5)
    assert max(angles) == pytest.approx(25, abs=1.5)
    assert np.min(shifts) == pytest.approx(-10, abs=1.5)  # 0.05 of 200 pixels
    assert np.max(shifts) == pytest.approx(10, abs=1.5)


def test_anchors_move_by_up_to_their_limit():
    anchors = np.array([[166, 166], [166, 34], [34, 34]])
    moves = np.array([_moved(ONE["anchors"], anchors, seed) - anchors for seed in range(100)])
    assert 4.5 < np.abs(moves).max() < 5.1
    assert np.abs(moves.mean(axis=0)).max() < 1


@pytest.mark.parametrize("size", [64, 224, 256, 378, 512])
def test_grid_stretches_by_its_limit_up_to_the_last_column(size):
    ramp = np.tile(np.arange(size, dtype=np.float32), (size, 1))
    for seed in range(5):
        columns = augment(ONE["grid"], ramp, seed)[0]
        stretch = np.diff(columns)[2 : int(size * 0.7)]  # the far edge may be reflected
        assert stretch.min() > 0.7
        assert stretch.max() < 1.3
        assert stretch.std() > 0.05
        assert columns[-8:].min() > size * 0.7


def test_elastic_field_on_the_coarse_grid_has_the_full_spread():
    size, alpha, sigma = 256, 200.0, 15.0
    recipe = dataclasses.replace(OFF, elastic_alpha=alpha, elastic_sigma=sigma)
    ramp = np.tile(np.arange(size, dtype=np.float32), (size, 1))
    inside = np.s_[20:-20, 20:-20]
    coarse = [augment(recipe, ramp, seed)[inside] - ramp[inside] for seed in range(40)]
    rng = np.random.default_rng(0)
    full = [alpha * cv2.GaussianBlur(rng.uniform(-1, 1, (size, size)), (0, 0), sigma)[inside] for _ in range(40)]
    assert np.std(coarse) == pytest.approx(np.std(full), rel=0.1)
    assert np.std(coarse) == pytest.approx(0.163 * alpha / sigma, rel=0.1)
    assert np.std(np.diff(coarse, axis=-1)) == pytest.approx(np.std(np.diff(full, axis=-1)), rel=0.1)


@pytest.mark.parametrize(("shift", "scale", "rotate"), [(0.05, 0.075, 25.0), (0.3, 0.0, 0.0), (0.0, 0.5, 180.0)])
@pytest.mark.parametrize("size", [88, 255, 256])
def test_affine_matrix_is_that_of_albumentations(shift, scale, rotate, size):
    """Experiments were trained with these draws, so every bit counts."""
    import albumentations

    affine = albumentations.Affine(
        scale=(1 - scale, 1 + scale),
        translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
        rotate=(-rotate, rotate),
        keep_ratio=True,
    )
    recipe = dataclasses.replace(OFF, shift=shift, scale=scale, rotate=rotate)
    for seed in range(200):
        affine.set_random_seed(int(np.random.default_rng(seed).integers(2**32)))
        expected = affine.get_params_dependent_on_data({"shape": (size, size)}, {})["matrix"][:2]
        assert affine_matrix(size, recipe, np.random.default_rng(seed)).tobytes() == expected.tobytes()


def test_loader_does_not_import_albumentations():
    code = "import sys, ichx.loading.loader; print('albumentations' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_plugins_that_import_albumentations_cause_no_update_check():
    code = "import os, ichx.plugins; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1\n"
