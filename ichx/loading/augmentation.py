"""Training augmentation: with a probability, exactly one of the recipe's transforms, alike for all slices and masks.

The only file that knows albumentations. Everything outside the image is air (-1024 HU), or background, and all draws
come from the generator of the call: nothing but working memory is kept between calls. Windows are applied on the
device; of their jitter only the draws are made here.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR
from ichx.recipe import AugmentationRecipe

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for a newer version over the network when imported

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """What is moved: how it is interpolated (as OpenCV has it), what lies outside of it, and the type to compute in."""

    interpolation: int
    fill: int
    dtype: str


HU: Final = Kind(cv2.INTER_LINEAR, AIR, "float32")  # OpenCV warps float32 in half the time of int16
MASK: Final = Kind(cv2.INTER_NEAREST, 0, "uint8")
KINDS: Final = (HU, MASK)


class Move(Protocol):
    """Moves an image without rounding: int16 or float32 HU, or a uint8 mask, which goes where the slice goes."""

    def __call__(self, image: Image, kind: Kind = HU, /) -> Image:
        """Return `image`, or where it is now."""
        ...


Warp = Callable[[Image, Image, Kind], Image]
"""Moves an image of a kind, into the working memory that it gets or into its own, and returns where it is."""

Transform = Callable[[np.random.Generator], Warp]
"""Draws what is done; the warp holds until the next draw of the same transform."""

COARSE: Final = 3.0
"""Cells per sigma of an elastic field's coarse grid: finer ones change the field by less than 0.02 of its spread."""


class Augmenter:
    """The augmentation of `recipe` for images of `size` x `size` pixels; may be pickled to worker processes.

    Not for several threads at once.
    """

    def __init__(self, recipe: AugmentationRecipe, size: int) -> None:
        self.recipe = recipe
        self.size = size
        self._transforms = self._make()
        # Kept, because fresh memory costs a third of a warp.
        self._memory = {
            kind: (np.empty((size, size), kind.dtype), np.empty((size, size), kind.dtype)) for kind in KINDS
        }

    def __call__(self, hu: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        """Return `hu` (size, size) HU, int16 or float32, augmented: contiguous, of the same dtype, of its own memory.

        The result depends on nothing but `hu`, the recipe and the state of `rng`. `hu` itself is never changed.
        """
        moved = self.move(hu, rng)
        return (moved if moved.dtype == hu.dtype else np.rint(moved)).astype(hu.dtype)

    def move(self, hu: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        """Return the same without rounding: `hu` itself, or an image that the next call may write over.

        It is float32 where it is neither `hu` nor its mirror image.
        """
        return self.draw(rng)(hu)

    def draw(self, rng: np.random.Generator) -> Move:
        """Return what `move` does at this state of `rng`, to be done to several images alike before the next draw."""
        if not self._transforms or rng.random() >= self.recipe.probability:
            return unmoved
        transform = self._transforms[int(rng.integers(len(self._transforms)))]
        if transform is _hflip:
            return _mirrored
        warp = transform(rng)

        def moved(image: Image, kind: Kind = HU, /) -> Image:
            source, out = self._memory[kind]
            np.copyto(source, image)
            return warp(source, out, kind)

        return moved

    def __reduce__(self) -> tuple[type["Augmenter"], tuple[AugmentationRecipe, int]]:
        return type(self), (self.recipe, self.size)

    def _make(self) -> list[Transform]:
        recipe, size = self.recipe, self.size
        transforms: list[Transform] = []
        if recipe.hflip:
            transforms.append(_hflip)
        if recipe.shift or recipe.scale or recipe.rotate:
            transforms.append(_affine(size, recipe.shift, recipe.scale, recipe.rotate))
        if recipe.grid_limit:
            transforms.append(_grid(size, recipe.grid_steps, recipe.grid_limit))
        if recipe.anchors:
            transforms.append(_anchors(size, recipe.anchors))
        if recipe.elastic_alpha:
            transforms.append(_elastic(size, recipe.elastic_alpha, recipe.elastic_sigma))
        return transforms


def jitters_windows(recipe: AugmentationRecipe) -> bool:
    """Whether `recipe` changes windows."""
    return recipe.window_shift > 0 or recipe.window_scale > 0


def window_jitter(recipe: AugmentationRecipe, windows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (windows, 2) float32: HU to add to each window's centre, and the factor of its width; drawn evenly."""
    reach = np.array([recipe.window_shift, recipe.window_scale], np.float32)
    return rng.uniform(-1, 1, (windows, 2)).astype(np.float32) * reach + np.array([0, 1], np.float32)


def unmoved(image: Image, kind: Kind = HU, /) -> Image:
    """Return `image` as it is: the `Move` of a sample that is not augmented."""
    return image


def _mirrored(image: Image, kind: Kind = HU, /) -> Image:
    flipped: Image = cv2.flip(image, 1)
    return flipped


def _hflip(rng: np.random.Generator) -> Warp:
    """Stand for `_mirrored`, which needs no float32."""
    return lambda image, out, kind: _mirrored(image)


def _affine(size: int, shift: float, scale: float, rotate: float) -> Transform:
    """Shift by up to a share of the size per axis, one scale in 1 +- `scale` for both, rotation up to `rotate` degrees.

    What ShiftScaleRotate meant: today's class of that name draws two scales, so Affine is told to keep the ratio.
    """
    import albumentations

    transform = albumentations.Affine(
        scale=(1 - scale, 1 + scale),
        translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
        rotate=(-rotate, rotate),
        keep_ratio=True,
    )

    def draw(rng: np.random.Generator) -> Warp:
        transform.set_random_seed(int(rng.integers(2**32)))
        return _by_matrix(transform.get_params_dependent_on_data({"shape": (size, size)}, {})["matrix"][:2], size)

    return draw


def _by_matrix(matrix: npt.NDArray[Any], size: int) -> Warp:
    """Return the warp by an affine (2, 3) `matrix`, beyond which is air."""

    def warp(image: Image, out: Image, kind: Kind) -> Image:
        how: Any = {"flags": kind.interpolation, "borderMode": cv2.BORDER_CONSTANT, "borderValue": kind.fill}
        return np.asarray(cv2.warpAffine(image, matrix, (size, size), dst=out, **how))

    return warp


def _grid(size: int, steps: int, limit: float) -> Transform:
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

    def warp(image: Image, out: Image, kind: Kind) -> Image:
        reflected: Any = {"dst": out, "borderMode": cv2.BORDER_REFLECT_101}
        return np.asarray(cv2.remap(image, map_x, map_y, kind.interpolation, **reflected))

    def draw(rng: np.random.Generator) -> Warp:
        map_x[:], map_y[:] = axis(rng), axis(rng)[:, None]
        return warp

    return draw


def _anchors(size: int, reach: float) -> Transform:
    """Move three anchors, a third of the size from the centre, by up to `reach` pixels per axis: a random affine."""
    middle, third = size // 2, size // 3
    low, high = middle - third, middle + third
    anchors = np.array([[high, high], [high, low], [low, low]], np.float32)

    def draw(rng: np.random.Generator) -> Warp:
        moved_anchors = anchors + rng.uniform(-reach, reach, anchors.shape).astype(np.float32)
        return _by_matrix(cv2.getAffineTransform(anchors, moved_anchors), size)

    return draw


def _elastic(size: int, alpha: float, sigma: float) -> Transform:
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

    def warp(image: Image, out: Image, kind: Kind) -> Image:
        moved: Image = cv2.remap(
            image, field, none, kind.interpolation, dst=out, borderMode=cv2.BORDER_CONSTANT, borderValue=kind.fill
        )
        return moved

    def draw(rng: np.random.Generator) -> Warp:
        noise = rng.random((cells + 2 * edge, cells + 2 * edge, 2), np.float32)
        noise -= 0.5
        # White noise of one value per `step` pixels carries `step` times as much into the smoothing, per axis.
        noise *= 2 * alpha / step
        smooth = cv2.GaussianBlur(noise, (2 * edge + 1, 2 * edge + 1), blur)[edge:-edge, edge:-edge]
        cv2.resize(smooth, (size, size), dst=field, interpolation=cv2.INTER_LINEAR)
        np.add(field, grid, out=field)
        return warp

    return draw
