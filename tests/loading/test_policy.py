"""The augmentation policy `each`: several transforms at once."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from ichx.ct.windows import windows_torch
from ichx.loading.augmentation import MASK, affine_matrix, window_jitter
from ichx.loading.policy import PolicyAugmenter, make_augmenter
from ichx.loading.sampling import generator
from ichx.recipe import AugmentationRecipe

OFF = AugmentationRecipe(
    probability=1.0, hflip=False, shift=0.0, scale=0.0, rotate=0.0, grid_limit=0.0, anchors=0.0, policy="each"
)
ONE = {
    "hflip": dataclasses.replace(OFF, hflip=True, hflip_probability=1.0),
    "vflip": dataclasses.replace(OFF, vflip=True, vflip_probability=1.0),
    "affine": dataclasses.replace(OFF, shift=0.05, scale=0.1, rotate=25.0, affine_probability=1.0),
    "grid": dataclasses.replace(OFF, grid_limit=0.25, grid_probability=1.0),
    "anchors": dataclasses.replace(OFF, anchors=5.0, anchors_probability=1.0),
    "elastic": dataclasses.replace(OFF, elastic_alpha=60.0, elastic_probability=1.0),
    "crop": dataclasses.replace(OFF, crop_area=0.5, crop_probability=1.0),
    "erase": dataclasses.replace(OFF, erase=0.3, erase_probability=1.0),
    "noise": dataclasses.replace(OFF, noise=20.0, noise_probability=1.0),
}
MOVES = [name for name in ONE if name not in ("erase", "noise")]
ALL = AugmentationRecipe(
    probability=0.9, policy="each", vflip=True, elastic_alpha=60.0, crop_area=0.4, erase=0.2, noise=10.0
)


def image(size: int = 96, dtype: type = np.int16) -> np.ndarray:
    noise = np.random.default_rng(0).normal(40, 300, (size, size)).astype(np.float32)
    return np.rint(cv2.GaussianBlur(noise, (0, 0), 2)).astype(dtype)


def augment(recipe: AugmentationRecipe, hu: np.ndarray, seed: int) -> np.ndarray:
    return PolicyAugmenter(recipe, len(hu)).draw(np.random.default_rng(seed))(hu).copy()


@pytest.mark.parametrize("name", ONE)
def test_each_transform_changes_the_image_but_not_its_input(name: str) -> None:
    hu = image()
    original = hu.copy()
    out = augment(ONE[name], hu, 1)
    assert out.shape == hu.shape
    assert not np.array_equal(out, hu)
    assert np.array_equal(hu, original)
    assert np.array_equal(out, augment(ONE[name], image(dtype=np.float32), 1))


def test_flips_are_exact() -> None:
    hu = image()
    assert np.array_equal(augment(ONE["hflip"], hu, 0), hu[:, ::-1])
    assert np.array_equal(augment(ONE["vflip"], hu, 0), hu[::-1])
    both = dataclasses.replace(ONE["hflip"], vflip=True, vflip_probability=1.0)
    assert np.array_equal(augment(both, hu, 0), hu[::-1, ::-1])


def test_transforms_are_drawn_independently_with_their_probabilities() -> None:
    hu = image(32)
    recipe = dataclasses.replace(
        OFF, probability=0.8, hflip=True, hflip_probability=0.5, vflip=True, vflip_probability=0.25
    )
    augmenter = PolicyAugmenter(recipe, 32)
    counts = {"": 0, "h": 0, "v": 0, "hv": 0}
    shown = {"": hu, "h": hu[:, ::-1], "v": hu[::-1], "hv": hu[::-1, ::-1]}
    for seed in range(2000):
        out = augmenter.draw(np.random.default_rng(seed))(hu)
        (name,) = [name for name, expected in shown.items() if np.array_equal(out, expected)]
        counts[name] += 1
    expected = {"": 0.2 + 0.8 * 0.375, "h": 0.8 * 0.375, "v": 0.8 * 0.125, "hv": 0.8 * 0.125}
    for name, share in expected.items():
        assert abs(counts[name] - 2000 * share) < 95, name  # 4.2 standard deviations at most


def test_a_distortion_of_an_affine_image_is_one_resampling() -> None:
    both = dataclasses.replace(ONE["affine"], elastic_alpha=60.0, elastic_probability=1.0)
    hu = cv2.GaussianBlur(image(dtype=np.float32), (0, 0), 4)
    rng = np.random.default_rng(5)
    assert rng.random() < 1  # whether the sample is augmented, and the draw for the affine
    assert rng.random() < 1
    matrix = affine_matrix(96, both, rng)
    moved = cv2.warpAffine(hu, matrix, (96, 96), borderMode=cv2.BORDER_CONSTANT, borderValue=-1024)
    remaining = PolicyAugmenter(ONE["elastic"], 96)
    state = rng.bit_generator.state
    same = np.random.default_rng(0)
    same.bit_generator.state = state
    # Skip the draw of the sample's own probability, which the second augmenter repeats.
    expected = _elastic_of(remaining, moved, same)
    found = augment(both, hu, 5)
    inside = (slice(20, 76), slice(20, 76))
    assert abs(found[inside] - expected[inside]).mean() < 3
    assert abs(found[inside] - hu[inside]).mean() > 10


def _elastic_of(augmenter: PolicyAugmenter, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    probability, sample = augmenter._distortions[0]
    assert rng.random() < probability
    places = sample(rng)
    return cv2.remap(hu, places.x, places.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1024)


@pytest.mark.parametrize("name", MOVES)
def test_masks_move_with_images(name: str) -> None:
    mask = cv2.circle(np.zeros((96, 96), np.uint8), (60, 40), 16, 3, -1)
    hu = np.where(mask > 0, 1000, -1024).astype(np.int16)
    for seed in range(10):
        transform = PolicyAugmenter(ONE[name], 96).draw(np.random.default_rng(seed))
        moved, of_mask = transform(hu).copy(), transform(mask, MASK).copy()
        assert set(np.unique(of_mask)) <= {0, 3}
        bright = moved > -12
        assert (bright != (of_mask == 3)).sum() < 40, "they agree except at the edge"


def test_an_erased_rectangle_is_air_without_a_label() -> None:
    areas = []
    for seed in range(200):
        transform = PolicyAugmenter(ONE["erase"], 96).draw(np.random.default_rng(seed))
        erased = transform(np.full((96, 96), 40, np.int16)) == -1024
        assert np.array_equal(transform(np.full((96, 96), 2, np.uint8), MASK) == 0, erased)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased.sum() == len(rows) * len(columns), "a rectangle"
        areas.append(erased.mean())
    assert max(areas) == pytest.approx(0.3, abs=0.03)
    assert np.mean(areas) == pytest.approx(0.15, abs=0.03)


def test_crops_enlarge_and_leave_out_up_to_their_share() -> None:
    """A bright border of one pixel per side is lost where the crop leaves it out."""
    ramp = np.tile(np.arange(96, dtype=np.float32), (96, 1))
    shares = []
    for seed in range(300):
        transform = PolicyAugmenter(ONE["crop"], 96).draw(np.random.default_rng(seed))
        across, down = transform(ramp).copy(), transform(ramp.T.copy()).copy()
        width = (across[48, 90] - across[48, 5]) / 85
        height = (down[90, 48] - down[5, 48]) / 85
        shares.append(width * height)
        assert across[10:-10, 10:-10].min() >= 0, "nothing comes from outside"
    assert min(shares) == pytest.approx(0.5, abs=0.02)
    assert max(shares) == pytest.approx(1.0, abs=0.02)


def test_noise_has_its_deviation_and_differs_between_slices_of_a_sample() -> None:
    recipe = dataclasses.replace(ONE["noise"], noise=20.0)
    deviations = []
    for seed in range(100):
        transform = PolicyAugmenter(recipe, 96).draw(np.random.default_rng(seed))
        first, second = (transform(np.full((96, 96), 40, np.int16)).copy() - 40 for _ in range(2))
        deviations.append(first.std())
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.06
        assert second.std() == pytest.approx(first.std(), rel=0.06)
    assert np.mean(deviations) == pytest.approx(10, abs=1.5)
    assert max(deviations) < 20.8
    mask = np.full((96, 96), 4, np.uint8)
    assert np.array_equal(transform(mask, MASK), mask)


def test_result_depends_only_on_image_and_generator() -> None:
    augmenter = PolicyAugmenter(ALL, 96)
    first = [augment(ALL, image(), seed) for seed in range(20)]
    second = [augmenter.draw(np.random.default_rng(seed))(image()).copy() for seed in reversed(range(20))]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(second), strict=True))


def test_gamma_and_windows_have_probabilities_of_their_own() -> None:
    recipe = dataclasses.replace(OFF, window_shift=10.0, window_probability=0.25, gamma=1.0, gamma_probability=0.75)
    drawn = np.stack([window_jitter(recipe, 3, generator(1, number)) for number in range(1000)])
    assert drawn.shape == (1000, 3, 3)
    moved, powers = (drawn[..., 0] != 0).all(axis=1), (drawn[..., 2] != 1).all(axis=1)
    assert abs(moved.sum() - 250) < 60
    assert abs(powers.sum() - 750) < 60
    assert drawn[..., 2].min() == pytest.approx(0.5, abs=0.02)
    assert drawn[..., 2].max() == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_gamma_is_a_power_of_windowed_values(kind: str) -> None:
    hu = torch.arange(-1024, 1024, dtype=torch.int16)[None, None].repeat(2, 1, 1)
    windows, header = [(-1.0, -1.0), (80.0, 200.0)], torch.tensor([[40.0, 80.0]] * 2)
    jitter = torch.tensor([[[3.0, 1.1, 0.5], [0.0, 1.0, 2.0]]] * 2)
    plain = windows_torch(hu, header, windows, kind, jitter[..., :2])
    found = windows_torch(hu, header, windows, kind, jitter)
    torch.testing.assert_close(found, plain ** torch.tensor([0.5, 2.0]).view(1, 2, 1, 1))


def test_the_policy_of_the_recipe_decides() -> None:
    assert not isinstance(make_augmenter(AugmentationRecipe(), 32), PolicyAugmenter)
    assert isinstance(make_augmenter(ALL, 32), PolicyAugmenter)


def test_the_order_of_slices_is_reversed_with_its_probability() -> None:
    recipe = dataclasses.replace(OFF, reverse=True, reverse_probability=0.5, probability=0.5)
    augmenter = PolicyAugmenter(recipe, 32)
    drawn = []
    for seed in range(1000):
        augmenter.draw(np.random.default_rng(seed))
        drawn.append(augmenter.reversed)
    assert abs(sum(drawn) - 250) < 60
