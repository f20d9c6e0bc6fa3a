"""Augmentation of series: which slices remain and in which order, and noise. The draws are addressed by the caller."""

import numpy as np
import numpy.typing as npt

from ichx.recipe import SequenceRecipe

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


def remaining(count: int, recipe: SequenceRecipe, rng: np.random.Generator) -> IntArray:
    """Return the places, from 0 to `count` - 1, of the slices that remain, in their new order; at least one."""
    places = np.arange(count)
    if rng.random() < recipe.contiguous:
        length = int(rng.integers(-(-count // 2), count + 1))
        start = int(rng.integers(count - length + 1))
        places = places[start : start + length]
    if rng.random() < recipe.every_second and len(places) > 1:
        places = places[int(rng.integers(2)) :: 2]
    if recipe.drop > 0:
        stays = rng.random(len(places)) >= recipe.drop
        stays[rng.integers(len(places))] = True
        places = places[stays]
    return places[::-1].copy() if rng.random() < recipe.reverse else places


def with_noise(values: Float32Array, share: float, rng: np.random.Generator) -> Float32Array:
    """Return `values` `(n, C)` plus normal noise of `share` of each column's standard deviation."""
    noise = rng.standard_normal(values.shape, np.float32) * (share * values.std(axis=0, keepdims=True))
    noisy: Float32Array = values + noise.astype(np.float32)
    return noisy
