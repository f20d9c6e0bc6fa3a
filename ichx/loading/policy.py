"""The augmentation policy `each`: several transforms of a sample at once, each with a probability of its own.

Everything that moves pixels is one resampling: the matrices of flips, affines and crops are multiplied, and distortions
displace what results. Then noise may be added to HU, and a rectangle erased. Pixels from outside the image are air. The
policy `one` is in `ichx.loading.augmentation`.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR
from ichx.loading.augmentation import (
    HU,
    MASK,
    Augmenter,
    Image,
    ImageKind,
    Transform,
    affine_matrix,
    anchor_matrix,
    elastic_field,
    grid_axes,
    identity,
)
from ichx.recipe import AugmentationRecipe

Matrix = npt.NDArray[np.float64]
"""`(2, 3)`, maps places in the image, (x, y, 1), to places in the result."""

ASPECT: Final = 4 / 3
"""Largest ratio of the sides of a crop, and twice that of an erased rectangle."""

NOISE_VALUES: Final = 1 << 20
"""Normal values that noise is cut out of: drawing each again takes longer than all other transforms."""


@dataclass(frozen=True)
class _Distortion:
    """Places that a drawn distortion reads from, `(H, W)` each, valid until the next draw."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]


class PolicyAugmenter:
    """The augmentation of `recipe`, whose policy is `each`, for images of `size` x `size` pixels. Not thread-safe."""

    def __init__(self, recipe: AugmentationRecipe, size: int) -> None:
        self.recipe, self._size = recipe, size
        self.reversed = False
        """Whether the last draw reverses the order of a sample's slices."""
        self._matrices = _matrices(recipe, size)
        self._distortions = _distortions(recipe, size)
        self._grid = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
        self._maps = np.empty((2, size, size), np.float32)
        self._buffers = {
            kind: (np.empty((size, size), kind.dtype), np.empty((size, size), kind.dtype)) for kind in (HU, MASK)
        }

    def draw(self, rng: np.random.Generator) -> Transform:
        """Return the transform drawn from `rng`, valid until the next draw."""
        recipe = self.recipe
        self.reversed = False
        if rng.random() >= recipe.probability:
            return identity
        self.reversed = recipe.reverse and bool(rng.random() < recipe.reverse_probability)
        matrix = _identity_matrix()
        exact = True
        for probability, sample, is_flip in self._matrices:
            if rng.random() < probability:
                matrix = _times(sample(rng), matrix)
                exact = exact and is_flip
        distortions = [sample(rng) for probability, sample in self._distortions if rng.random() < probability]
        box = _box(rng, recipe.erase, self._size) if recipe.erase and rng.random() < recipe.erase_probability else None
        noise = 0.0
        if recipe.noise and rng.random() < recipe.noise_probability:
            noise = float(rng.uniform(0, recipe.noise))
        moves = bool(distortions) or not np.array_equal(matrix, _identity_matrix())
        if not moves and box is None and noise == 0:
            return identity
        if distortions:
            self._compose(matrix, distortions)

        def transform(image: Image, kind: ImageKind = HU, /) -> Image:
            source, out = self._buffers[kind]
            if moves and exact and not distortions:
                out[...] = image[:: int(matrix[1, 1]), :: int(matrix[0, 0])]
            elif moves:
                np.copyto(source, image)
                self._resample(source, out, kind, None if distortions else matrix)
            else:
                np.copyto(out, image)
            if noise and kind is HU:
                _add_noise(out, noise, rng)
            if box is not None:
                top, bottom, left, right = box
                out[top:bottom, left:right] = kind.fill
            return out

        return transform

    def _resample(self, source: Image, out: Image, kind: ImageKind, matrix: Matrix | None) -> None:
        options: Any = {"dst": out, "borderMode": cv2.BORDER_CONSTANT, "borderValue": kind.fill}
        if matrix is not None:
            cv2.warpAffine(source, matrix, (self._size, self._size), flags=kind.interpolation, **options)
        else:
            cv2.remap(source, self._maps[0], self._maps[1], kind.interpolation, **options)

    def _compose(self, matrix: Matrix, distortions: list[_Distortion]) -> None:
        """Write the places that the result reads from: those of the distortions, mapped back through `matrix`."""
        x, y = self._grid
        shift_x = sum((d.x - x for d in distortions[1:]), start=distortions[0].x)
        shift_y = sum((d.y - y for d in distortions[1:]), start=distortions[0].y)
        back = cv2.invertAffineTransform(matrix).astype(np.float32)
        np.multiply(shift_x, back[0, 0], out=self._maps[0])
        self._maps[0] += shift_y * back[0, 1] + back[0, 2]
        np.multiply(shift_y, back[1, 1], out=self._maps[1])
        self._maps[1] += shift_x * back[1, 0] + back[1, 2]


def make_augmenter(recipe: AugmentationRecipe, size: int) -> Augmenter | PolicyAugmenter:
    """Return the augmenter of the policy of `recipe` for images of `size` x `size` pixels."""
    return PolicyAugmenter(recipe, size) if recipe.policy == "each" else Augmenter(recipe, size)


def _matrices(
    recipe: AugmentationRecipe, size: int
) -> list[tuple[float, Callable[[np.random.Generator], Matrix], bool]]:
    """Return the probability of each transform with a matrix, its sampler, and whether it is a flip."""
    last = size - 1.0
    found: list[tuple[float, Callable[[np.random.Generator], Matrix], bool]] = []
    if recipe.hflip:
        found.append((recipe.hflip_probability, lambda rng: np.array([[-1, 0, last], [0, 1, 0.0]]), True))
    if recipe.vflip:
        found.append((recipe.vflip_probability, lambda rng: np.array([[1, 0, 0.0], [0, -1, last]]), True))
    if recipe.shift or recipe.scale or recipe.rotate:
        found.append((recipe.affine_probability, lambda rng: affine_matrix(size, recipe, rng), False))
    if recipe.anchors:
        found.append((recipe.anchors_probability, lambda rng: anchor_matrix(size, recipe.anchors, rng), False))
    if recipe.crop_area:
        found.append((recipe.crop_probability, lambda rng: _crop(size, recipe.crop_area, rng), False))
    return found


def _distortions(
    recipe: AugmentationRecipe, size: int
) -> list[tuple[float, Callable[[np.random.Generator], _Distortion]]]:
    """Return the probability of each distortion and its sampler."""
    found: list[tuple[float, Callable[[np.random.Generator], _Distortion]]] = []
    if recipe.grid_limit:
        axes = grid_axes(size, recipe.grid_steps, recipe.grid_limit)

        def grid(rng: np.random.Generator) -> _Distortion:
            x, y = axes(rng)
            return _Distortion(np.broadcast_to(x, (size, size)), np.broadcast_to(y[:, None], (size, size)))

        found.append((recipe.grid_probability, grid))
    if recipe.elastic_alpha:
        field = elastic_field(size, recipe.elastic_alpha, recipe.elastic_sigma)

        def elastic(rng: np.random.Generator) -> _Distortion:
            places = field(rng)
            return _Distortion(places[..., 0], places[..., 1])

        found.append((recipe.elastic_probability, elastic))
    return found


def _crop(size: int, largest: float, rng: np.random.Generator) -> Matrix:
    """Return the matrix that enlarges a random rectangle to the image; it leaves out up to `largest` of the area."""
    width, height = _sides(1 - rng.uniform(0, largest), ASPECT, rng)
    left, top = rng.uniform(0, 1 - width) * size, rng.uniform(0, 1 - height) * size
    return np.array(
        [[1 / width, 0, -left / width + (1 / width - 1) / 2], [0, 1 / height, -top / height + (1 / height - 1) / 2]]
    )


def _box(rng: np.random.Generator, largest: float, size: int) -> tuple[int, int, int, int]:
    """Return a rectangle of up to `largest` of the area: top, bottom, left, right."""
    width, height = _sides(rng.uniform(0, largest), 2 * ASPECT, rng)
    left, top = rng.uniform(0, 1 - width) * size, rng.uniform(0, 1 - height) * size
    return round(top), round(top + height * size), round(left), round(left + width * size)


def _sides(area: float, aspect: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return width and height of a rectangle of `area`, as shares of the image."""
    stretch = math.exp(rng.uniform(-math.log(aspect), math.log(aspect)) / 2)
    width = min(math.sqrt(area) * stretch, 1.0)
    height = min(area / width, 1.0) if width else 0.0
    return width, height


def _add_noise(hu: npt.NDArray[np.float32], deviation: float, rng: np.random.Generator) -> None:
    """Add normal noise to `hu`, cut at a random place out of fixed values; air outside the scan has noise, too."""
    values = _noise_values(max(NOISE_VALUES, 2 * hu.size))
    start = int(rng.integers(len(values) - hu.size))
    hu += values[start : start + hu.size].reshape(hu.shape) * np.float32(deviation)
    np.maximum(hu, AIR, out=hu)


@functools.cache
def _noise_values(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(count, np.float32)


def _times(second: npt.NDArray[Any], first: npt.NDArray[Any]) -> Matrix:
    """Return the matrix of `first`, then `second`."""
    product: Matrix = second @ np.vstack([first, [0, 0, 1]])
    return product


def _identity_matrix() -> Matrix:
    return np.eye(2, 3)
