"""The augmentation that a plugin brings: a function or an albumentations pipeline, applied to HU slices and masks.

It follows the transforms of the recipe (`ichx.loading.augmentation`). ichx itself never imports albumentations.
"""

import pickle
import random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR
from ichx.errors import InvalidInputError
from ichx.plugins.contract import AugmentationBuilder, SliceAugmentation
from ichx.recipe import Recipe

MOST_HU: Final = 3071
"""The highest value of a 12-bit scanner, which an albumentations pipeline sees as 1."""

Slice = npt.NDArray[np.int16]
Mask = npt.NDArray[np.uint8]


class PluginAugmentation:
    """The augmentation that `build` returns for `recipe`, with checks of its results."""

    def __init__(self, build: AugmentationBuilder, recipe: Recipe) -> None:
        self._plugin = recipe.plugin
        built: Any = build(recipe)
        self._augment: SliceAugmentation = built
        if hasattr(built, "set_random_state"):
            self._augment = _AlbumentationsPipeline(built)
        elif not callable(built):
            raise self._invalid(f"must be a function or an albumentations pipeline, not a {type(built).__name__}")

    def __call__(self, hu: npt.NDArray[Any], mask: Mask | None, rng: np.random.Generator) -> tuple[Slice, Mask | None]:
        """Return the augmented slice and mask.

        Args:
            hu: (H, W) HU, int16 or float32. It is not changed.
            mask: (H, W), or None if the slice has no drawn mask.
            rng: Source of all random draws.

        Raises:
            InvalidInputError: The result has another shape or type, or a value that is not finite.
        """
        result = self._augment(hu.astype(np.float32), None if mask is None else mask.copy(), rng)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._invalid(f"must return the slice and the mask, not a {type(result).__name__}")
        new_hu, new_mask = result
        if np.shape(new_hu) != hu.shape or not np.isfinite(new_hu).all():
            raise self._invalid(f"must return finite HU of shape {hu.shape}; the result has shape {np.shape(new_hu)}")
        if mask is not None and (new_mask is None or new_mask.shape != mask.shape or new_mask.dtype != np.uint8):
            raise self._invalid(f"must return a uint8 mask of shape {mask.shape}")
        rounded = np.rint(np.clip(new_hu, AIR, np.iinfo(np.int16).max)).astype(np.int16)
        return rounded, None if mask is None else new_mask

    def _invalid(self, what: str) -> InvalidInputError:
        return InvalidInputError(
            f"The augmentation of plugin {self._plugin!r} {what}.", "Correct `build_augmentation` of the plugin."
        )


class _AlbumentationsPipeline:
    """An albumentations transform as a `SliceAugmentation`.

    It sees float32 values in [0, 1], which its transforms require: 0 is air, the default border, and 1 is `MOST_HU`.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __call__(
        self, hu: npt.NDArray[np.float32], mask: Mask | None, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], Mask | None]:
        # `set_random_seed` would give all transforms the same draws.
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        span = np.float32(MOST_HU - AIR)
        images = {"image": (hu - AIR) / span} | ({} if mask is None else {"mask": mask})
        result = self._pipeline(**images)
        return result["image"] * span + AIR, result.get("mask")


def check_picklable(build: AugmentationBuilder, plugin: str) -> None:
    """Raise `InvalidInputError` if `build` cannot be sent to loader processes."""
    try:
        pickle.dumps(build)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"The augmentation of plugin {plugin!r} cannot be sent to loader processes: {error}.",
            "Define `build_augmentation` as a function at the top level of a module, or use no loader processes.",
        ) from error
