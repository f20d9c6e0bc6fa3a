"""Training augmentation of a recipe: with a probability, exactly one of its transforms, alike for slices and masks.

This is the policy `one`; the policy `each` is in `ichx.loading.policy`.

Pixels from outside the image are air (-1024 HU), or background in a mask. Windows are applied on the device; only the
draws of their jitter are here. Augmentations that plugins bring are in `ichx.loading.plugin_augmentation`.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR
from ichx.recipe import AugmentationRecipe

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageKind:
    """How an image is resampled."""

    interpolation: int
    """OpenCV's."""
    fill: int
    """Value outside the image."""
    dtype: str
    """Type of the computation."""


HU: Final = ImageKind(cv2.INTER_LINEAR, AIR, "float32")  # OpenCV warps float32 in half the time of int16
MASK: Final = ImageKind(cv2.INTER_NEAREST, 0, "uint8")


class Transform(Protocol):
    """A drawn transform, applied alike to slices (int16 or float32 HU) and masks (uint8)."""

    def __call__(self, image: Image, kind: ImageKind = HU, /) -> Image:
        """Return the transformed image, unrounded: `image` itself or working memory of the next call."""
        ...


Warp = Callable[[Image, Image, ImageKind], Image]
"""Maps an image and an output buffer to the warped image."""

WarpSampler = Callable[[np.random.Generator], Warp]
"""Draws a warp, which is valid until the next draw of the same sampler."""

COARSE: Final = 3.0
"""Cells per sigma of the coarse grid of an elastic field. A finer one changes the field by under 0.02 of its spread."""


class Augmenter:
    """The augmentation of `recipe` for images of `size` x `size` pixels. Not thread-safe."""

    def __init__(self, recipe: AugmentationRecipe, size: int) -> None:
        self.recipe = recipe
        self.reversed = False
        """Whether the last draw reverses the order of a sample's slices: never."""
        self._samplers = _samplers(recipe, size)
        # Buffers are reused, because allocating one takes a third of the time of a warp.
        self._buffers = {
            kind: (np.empty((size, size), kind.dtype), np.empty((size, size), kind.dtype)) for kind in (HU, MASK)
        }

    def draw(self, rng: np.random.Generator) -> Transform:
        """Return the transform drawn from `rng`, valid until the next draw."""
        if not self._samplers or rng.random() >= self.recipe.probability:
            return identity
        sampler = self._samplers[int(rng.integers(len(self._samplers)))]
        if sampler is None:
            return _mirror
        warp = sampler(rng)

        def transform(image: Image, kind: ImageKind = HU, /) -> Image:
            source, out = self._buffers[kind]
            np.copyto(source, image)
            return warp(source, out, kind)

        return transform


def jitters_windows(recipe: AugmentationRecipe) -> bool:
    """Return whether `recipe` changes windows."""
    return recipe.window_shift > 0 or recipe.window_scale > 0 or recipe.gamma > 0


def window_jitter(recipe: AugmentationRecipe, windows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (windows, 2) float32: HU to add to the centre and factor of the width of each window, uniform draws.

    With `gamma` there is a third column: the exponent of windowed values, 2^u with a uniform u.
    """
    limits = np.array([recipe.window_shift, recipe.window_scale], np.float32)
    neutral = np.array([0, 1], np.float32)
    jitter = rng.uniform(-1, 1, (windows, 2)).astype(np.float32) * limits + neutral
    if recipe.window_probability < 1 and rng.random() >= recipe.window_probability:
        jitter[:] = neutral
    if not recipe.gamma:
        return jitter
    exponents = np.ones(windows, np.float32)
    if rng.random() < recipe.gamma_probability:
        exponents[:] = np.exp2(rng.uniform(-recipe.gamma, recipe.gamma, windows))
    return np.column_stack([jitter, exponents])


def identity(image: Image, kind: ImageKind = HU, /) -> Image:
    """Return `image`: the `Transform` of a sample that is not augmented."""
    return image


def affine_matrix(size: int, recipe: AugmentationRecipe, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random (2, 3) matrix for `cv2.warpAffine` and images of `size` x `size` pixels.

    It shifts by up to `recipe.shift` of the size per axis (whole pixels), scales both axes by one factor in 1 +-
    `recipe.scale`, and rotates about the centre by up to `recipe.rotate` degrees. Draws and arithmetic are those of
    `albumentations.Affine(keep_ratio=True)` 2.0.8, so that experiments trained with it can be reproduced.
    """
    source = random.Random(int(rng.integers(2**32)))
    shift_x, shift_y = (int(source.uniform(-recipe.shift, recipe.shift) * size) for _ in range(2))
    source.random(), source.random()  # Affine draws two shears, which are 0,
    scale, _ = (source.uniform(1 - recipe.scale, 1 + recipe.scale) for _ in range(2))  # and a scale per axis
    angle = np.deg2rad(source.uniform(-recipe.rotate, recipe.rotate) % 360)
    centre = size / 2 - 0.5
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cos, sin, centre + shift_x], [-sin, cos, centre + shift_y], [0, 0, 1]])
    return np.asarray((turn @ np.array([[1, 0, -centre], [0, 1, -centre], [0, 0, 1]]))[:2])


def _samplers(recipe: AugmentationRecipe, size: int) -> list[WarpSampler | None]:
    """Return the samplers of the recipe's transforms; None is the horizontal flip, which needs no float32."""
    samplers: list[WarpSampler | None] = []
    if recipe.hflip:
        samplers.append(None)
    if recipe.shift or recipe.scale or recipe.rotate:
        samplers.append(lambda rng: _warp_affine(affine_matrix(size, recipe, rng), size))
    if recipe.grid_limit:
        samplers.append(_grid(size, recipe.grid_steps, recipe.grid_limit))
    if recipe.anchors:
        samplers.append(lambda rng: _warp_affine(anchor_matrix(size, recipe.anchors, rng), size))
    if recipe.elastic_alpha:
        samplers.append(_elastic(size, recipe.elastic_alpha, recipe.elastic_sigma))
    return samplers


def _mirror(image: Image, kind: ImageKind = HU, /) -> Image:
    flipped: Image = cv2.flip(image, 1)
    return flipped


def _warp_affine(matrix: npt.NDArray[Any], size: int) -> Warp:
    def warp(image: Image, out: Image, kind: ImageKind) -> Image:
        options: Any = {"flags": kind.interpolation, "borderMode": cv2.BORDER_CONSTANT, "borderValue": kind.fill}
        return np.asarray(cv2.warpAffine(image, matrix, (size, size), dst=out, **options))

    return warp


def _grid(size: int, steps: int, limit: float) -> WarpSampler:
    """Return the sampler of grid distortions: `steps` columns and rows are stretched by factors in 1 +- `limit`.

    The border is reflected. As in the reference solution the stretches accumulate, so that towards the far edge they
    may leave the image.
    """
    axes = grid_axes(size, steps, limit)
    map_x, map_y = np.empty((2, size, size), np.float32)

    def warp(image: Image, out: Image, kind: ImageKind) -> Image:
        options: Any = {"dst": out, "borderMode": cv2.BORDER_REFLECT_101}
        return np.asarray(cv2.remap(image, map_x, map_y, kind.interpolation, **options))

    def draw(rng: np.random.Generator) -> Warp:
        across, down = axes(rng)
        map_x[:], map_y[:] = across, down[:, None]
        return warp

    return draw


def grid_axes(
    size: int, steps: int, limit: float
) -> Callable[[np.random.Generator], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Return the sampler of the columns and the rows `(size,)` that a grid distortion reads, see `_grid`."""
    cell = max(1, size // steps)
    knots = np.arange(0, size + cell, cell, dtype=np.float64)
    pixels = np.arange(size, dtype=np.float64)

    def axis(rng: np.random.Generator) -> npt.NDArray[np.float32]:
        stretched = np.concatenate([[0.0], np.cumsum(cell * rng.uniform(1 - limit, 1 + limit, len(knots) - 1))])
        return np.asarray(np.interp(pixels, knots, stretched), np.float32)

    return lambda rng: (axis(rng), axis(rng))


def anchor_matrix(size: int, limit: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the (2, 3) matrix of an affine that moves three anchors by up to `limit` pixels per axis.

    The anchors are a third of the size from the centre.
    """
    middle, third = size // 2, size // 3
    low, high = middle - third, middle + third
    anchors = np.array([[high, high], [high, low], [low, low]], np.float32)
    moved_anchors = anchors + rng.uniform(-limit, limit, anchors.shape).astype(np.float32)
    return np.asarray(cv2.getAffineTransform(anchors, moved_anchors))


def _elastic(size: int, alpha: float, sigma: float) -> WarpSampler:
    """Return the sampler of elastic displacements, see `elastic_field`."""
    sample = elastic_field(size, alpha, sigma)
    none: Any = None

    def draw(rng: np.random.Generator) -> Warp:
        field = sample(rng)

        def warp(image: Image, out: Image, kind: ImageKind) -> Image:
            warped: Image = cv2.remap(
                image, field, none, kind.interpolation, dst=out, borderMode=cv2.BORDER_CONSTANT, borderValue=kind.fill
            )
            return warped

        return warp

    return draw


def elastic_field(size: int, alpha: float, sigma: float) -> Callable[[np.random.Generator], npt.NDArray[np.float32]]:
    """Return the sampler of the places (size, size, 2), x and y, that an elastic displacement reads.

    They are displaced by uniform noise in [-1, 1], smoothed by a Gaussian of `sigma` pixels, times `alpha` pixels, as
    in Simard et al. 2003 (doi 10.1109/ICDAR.2003.1227801). The standard deviation of the displacement is about
    0.16 `alpha` / `sigma` pixels per axis. The smooth field is computed on a coarse grid. A draw replaces the last one.
    """
    cells = math.ceil(size / max(1.0, sigma / COARSE))
    step = size / cells
    blur = sigma / step
    edge = math.ceil(3 * blur)  # margin, without which the spread would be larger at the border
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float32)  # (row, column, (x, y))
    field = np.empty_like(grid)

    def draw(rng: np.random.Generator) -> npt.NDArray[np.float32]:
        noise = rng.random((cells + 2 * edge, cells + 2 * edge, 2), np.float32)
        noise -= 0.5
        # White noise with one value per `step` pixels contributes `step` times as much to the smoothed field, per axis.
        noise *= 2 * alpha / step
        smooth = cv2.GaussianBlur(noise, (2 * edge + 1, 2 * edge + 1), blur)[edge:-edge, edge:-edge]
        cv2.resize(smooth, (size, size), dst=field, interpolation=cv2.INTER_LINEAR)
        np.add(field, grid, out=field)
        return field

    return draw
