"""Training augmentation of one HU channel, or its mask: with a probability, exactly one of the recipe's transforms.

The only file that knows albumentations. Everything outside the image is air (-1024 HU), or background, and all draws
come from the generator of the call: nothing but working memory is kept between calls. Windows are applied on the
device; of their jitter only the draws are made here.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR
from ichx.recipe import AugmentationRecipe

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for a newer version over the network when imported

Image = npt.NDArray[Any]
Transform = Callable[[Image, np.random.Generator, Image], Image]
"""Moves an image, into the working memory that it gets or into memory of its own, and returns where it is."""


@dataclass(frozen=True)
class Kind:
    """What is moved: how it is interpolated (as OpenCV has it), what lies outside of it, and the type to compute in."""

    interpolation: int
    fill: int
    dtype: str


HU: Final = Kind(cv2.INTER_LINEAR, AIR, "float32")  # OpenCV warps float32 in half the time of int16
MASK: Final = Kind(cv2.INTER_NEAREST, 0, "uint8")

COARSE: Final = 3.0
"""Cells per sigma of an elastic field's coarse grid: finer ones change the field by less than 0.02 of its spread."""


class Augmenter:
    """The augmentation of `recipe` for images of `size` x `size` pixels; may be pickled to worker processes.

    Of one `kind` and another, equal generators move a pixel to the same place. Not for several threads at once.
    """

    def __init__(self, recipe: AugmentationRecipe, size: int, kind: Kind = HU) -> None:
        self.recipe = recipe
        self.size = size
        self.kind = kind
        self._transforms = self._make()
        # Kept, because fresh memory costs a third of a warp.
        self._source = np.empty((size, size), kind.dtype)
        self._moved = np.empty((size, size), kind.dtype)

    def __call__(self, hu: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        """Return `hu` (size, size) HU, int16 or float32, augmented: contiguous, of the same dtype, of its own memory.

        The result depends on nothing but `hu`, the recipe and the state of `rng`. `hu` itself is never changed.
        """
        moved = self.move(hu, rng)
        return (moved if moved.dtype == hu.dtype else np.rint(moved)).astype(hu.dtype)

    def move(self, hu: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        """Return the same without rounding: `hu` itself, or an image that the next call may write over.

        It is of the kind's type where it is neither `hu` nor its mirror image.
        """
        if not self._transforms or rng.random() >= self.recipe.probability:
            return hu
        transform = self._transforms[int(rng.integers(len(self._transforms)))]
        if transform is _hflip:
            return _hflip(hu, rng, hu)
        np.copyto(self._source, hu)
        return transform(self._source, rng, self._moved)

    def __reduce__(self) -> tuple[type["Augmenter"], tuple[AugmentationRecipe, int, Kind]]:
        return type(self), (self.recipe, self.size, self.kind)

    def _make(self) -> list[Transform]:
        recipe, size, kind = self.recipe, self.size, self.kind
        transforms: list[Transform] = []
        if recipe.hflip:
            transforms.append(_hflip)
        if recipe.shift or recipe.scale or recipe.rotate:
            transforms.append(_affine(recipe.shift, recipe.scale, recipe.rotate, kind))
        if recipe.grid_limit:
            transforms.append(_grid(size, recipe.grid_steps, recipe.grid_limit, kind))
        if recipe.anchors:
            transforms.append(_anchors(size, recipe.anchors, kind))
        if recipe.elastic_alpha:
            transforms.append(_elastic(size, recipe.elastic_alpha, recipe.elastic_sigma, kind))
        return transforms


def jitters_windows(recipe: AugmentationRecipe) -> bool:
    """Whether `recipe` changes windows."""
    return recipe.window_shift > 0 or recipe.window_scale > 0


def window_jitter(recipe: AugmentationRecipe, windows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (windows, 2) float32: HU to add to each window's centre, and the factor of its width; drawn evenly."""
    reach = np.array([recipe.window_shift, recipe.window_scale], np.float32)
    return rng.uniform(-1, 1, (windows, 2)).astype(np.float32) * reach + np.array([0, 1], np.float32)


def _hflip(hu: Image, rng: np.random.Generator, out: Image) -> Image:
    flipped: Image = cv2.flip(hu, 1)
    return flipped


def _affine(shift: float, scale: float, rotate: float, kind: Kind) -> Transform:
    """Shift by up to a share of the size per axis, one scale in 1 +- `scale` for both, rotation up to `rotate` degrees.

    What ShiftScaleRotate meant: today's class of that name draws two scales, so Affine is told to keep the ratio.
    """
    import albumentations

    transform = albumentations.Affine(
        scale=(1 - scale, 1 + scale),
        translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
        rotate=(-rotate, rotate),
        keep_ratio=True,
        interpolation=kind.interpolation,
        border_mode=cv2.BORDER_CONSTANT,
        fill=kind.fill,
        p=1.0,
    )

    def apply(hu: Image, rng: np.random.Generator, out: Image) -> Image:
        transform.set_random_seed(int(rng.integers(2**32)))
        moved: Image = transform(image=hu)["image"]
        return moved

    return apply


def _grid(size: int, steps: int, limit: float, kind: Kind) -> Transform:
    """Stretch each of `steps` columns and rows by a factor in 1 +- `limit`; the border is reflected.

    albumentations 2.0.8 fills what the steps do not divide evenly (4 of 256 columns at 20 steps) from column 0, so the
    maps are made here. As in the reference the stretches add up: towards the far edge they may leave the image.
    """
    cell = max(1, size // steps)
    knots = np.arange(0, size + cell, cell, dtype=np.float64)
    pixels = np.arange(size, dtype=np.float64)
    map_x, map_y = np.empty((2, size, size), np.float32)

    def axis(rng: np.random.Generator) -> npt.NDArray[np.float32]:
        stretched = np.concatenate([[0.0], np.cumsum(cell * rng.uniform(1 - limit, 1 + limit, len(knots) - 1))])
        return np.asarray(np.interp(pixels, knots, stretched), np.float32)

    def apply(hu: Image, rng: np.random.Generator, out: Image) -> Image:
        map_x[:], map_y[:] = axis(rng), axis(rng)[:, None]
        return np.asarray(cv2.remap(hu, map_x, map_y, kind.interpolation, dst=out, borderMode=cv2.BORDER_REFLECT_101))

    return apply


def _anchors(size: int, reach: float, kind: Kind) -> Transform:
    """Move three anchors, a third of the size from the centre, by up to `reach` pixels per axis: a random affine."""
    middle, third = size // 2, size // 3
    low, high = middle - third, middle + third
    anchors = np.array([[high, high], [high, low], [low, low]], np.float32)

    def apply(hu: Image, rng: np.random.Generator, out: Image) -> Image:
        moved_anchors = anchors + rng.uniform(-reach, reach, anchors.shape).astype(np.float32)
        matrix = cv2.getAffineTransform(anchors, moved_anchors)
        warped: Image = cv2.warpAffine(
            hu,
            matrix,
            (size, size),
            dst=out,
            flags=kind.interpolation,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=kind.fill,
        )
        return warped

    return apply


def _elastic(size: int, alpha: float, sigma: float, kind: Kind) -> Transform:
    """Displace by uniform noise in [-1, 1], smoothed by a Gaussian of `sigma` pixels, times `alpha` pixels.

    As in Simard et al. 2003 (doi 10.1109/ICDAR.2003.1227801), so that the displacement's standard deviation is
    about 0.16 `alpha` / `sigma` pixels per axis. Being smooth, it is made on a coarse grid and enlarged.
    """
    cells = math.ceil(size / max(1.0, sigma / COARSE))
    step = size / cells
    blur = sigma / step
    edge = math.ceil(3 * blur)  # without a margin the field would be livelier at the border
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float32)  # (row, column, (x, y))
    field = np.empty_like(grid)
    none: Any = None

    def apply(hu: Image, rng: np.random.Generator, out: Image) -> Image:
        noise = rng.random((cells + 2 * edge, cells + 2 * edge, 2), np.float32)
        noise -= 0.5
        # White noise of one value per `step` pixels carries `step` times as much into the smoothing, per axis.
        noise *= 2 * alpha / step
        smooth = cv2.GaussianBlur(noise, (2 * edge + 1, 2 * edge + 1), blur)[edge:-edge, edge:-edge]
        cv2.resize(smooth, (size, size), dst=field, interpolation=cv2.INTER_LINEAR)
        np.add(field, grid, out=field)
        moved: Image = cv2.remap(
            hu, field, none, kind.interpolation, dst=out, borderMode=cv2.BORDER_CONSTANT, borderValue=kind.fill
        )
        return moved

    return apply
