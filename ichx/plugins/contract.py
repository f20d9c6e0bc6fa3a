"""The plugin contract: a declared model and the recipe it trains with by default.

A plugin is data. Its `build` function is the only part that touches torch, and only when it is called.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from ichx.errors import InvalidInputError, NotFoundError
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, OptimizerRecipe, Recipe, StageRecipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a plugin may import it, and it would go online then

REFERENCE_STAGES = (
    StageRecipe(name="balanced", sampling="fixed", epochs=4, lr=1e-3),
    StageRecipe(name="rebalanced", sampling="redrawn", epochs=2, lr=1e-5),
    StageRecipe(name="full", sampling="all", epochs=2, lr=8e-6, milestones=(1,), gamma=0.5),
)
"""The three stages of the reference solution's model 1."""


def build_timm(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return the timm classifier of `recipe`: `(N, recipe.input.channels, H, W)` to `(N, 6)` logits."""
    from ichx.plugins.timm_classifier import build

    return build(recipe, pretrained)


class Segmented(NamedTuple):
    """Output of a network with masks on request: `logits` (N, 6) and `masks` (N, 5, H, W).

    `masks` are logits of each pixel, in the order of `ichx.labels.SUBTYPES`, at the size of the image.
    """

    logits: "Tensor"
    masks: "Tensor"


class SequenceWidths(NamedTuple):
    """Sizes of a network over series that its recipe does not contain."""

    features: tuple[int, ...]
    """Width of the features of each member; empty without features."""
    members: int
    """Members whose logits are inputs; 0 without logits."""
    heads: int
    """Independent networks that are trained side by side, `recipe.sequence.heads`."""


class SequenceBatch(NamedTuple):
    """Series as a network reads them: B of them, padded at their ends to T slices. Padding is 0."""

    features: "Tensor"
    """`(B, T, D)` float32, the features of all members; D is 0 without features."""
    logits: "Tensor"
    """`(B, T, M, 6)` float32, the logits of M members; M is 0 without logits."""
    place: "Tensor"
    """`(B, T, PLACES)` float32: the place in the series from -1 to 1, the distance to its middle in 100 mm, and the
    distances to the previous and the next slice in 10 mm, 0 at the ends."""
    position: "Tensor"
    """`(B, T)` float32 in mm."""
    mask: "Tensor"
    """`(B, T)` bool; False where a series is padded."""


PLACES: Final = 4
"""Width of `SequenceBatch.place`."""


class SequenceLogits(NamedTuple):
    """Output of a network over series, for each of H heads."""

    slices: "Tensor"
    """`(H, B, T, 6)`; those of padding are ignored."""
    series: "Tensor"
    """`(H, B, 6)`, whether a series has the label on any slice."""
    auxiliary: "tuple[Tensor, ...]" = ()
    """More logits of slices, which the loss treats like `slices`; predictions ignore them."""


class NetworkCost(NamedTuple):
    """Size and cost of a network at the size of its recipe; `ichx.plugins.cost.network_cost` computes it."""

    parameters: float
    """Millions."""
    gmacs: float
    """Billions of multiply-accumulates per image, forwards."""


class SliceAugmentation(Protocol):
    """Augments a slice in training."""

    def __call__(
        self, hu: "npt.NDArray[np.float32]", mask: "npt.NDArray[np.uint8] | None", rng: "np.random.Generator", /
    ) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]":
        """Return the augmented slice and mask, of the same shapes.

        Args:
            hu: (H, W) HU, which may be changed in place. Pixels from outside should become air, -1024.
            mask: (H, W), 0 or 1 + index in `ichx.labels.SUBTYPES`; None if the slice has no drawn mask.
            rng: Source of all random draws. It is the same for all slices of a stack, and for any number of workers.
        """
        ...


AugmentationBuilder = Callable[[Recipe], object]
"""A module-level function that returns a `SliceAugmentation` or an albumentations transform for a recipe."""

SequenceBuilder = Callable[[Recipe, SequenceWidths], "nn.Module"]
"""A function that returns a network over series for a recipe."""


@dataclass(frozen=True)
class Plugin:
    """A declared model: data, except for `build` and `build_augmentation`."""

    name: str
    summary: str
    recipe: Recipe
    """The default recipe, and its only source."""
    presets: Mapping[str, Recipe] = field(default_factory=dict)
    """Further recipes by name, for `ichx exp new --preset NAME`."""
    cost: NetworkCost | None = None
    """Of the default recipe, for lists."""
    weights_licence: str = ""
    """Licence of the pretrained weights of the default backbone."""
    notice: str = ""
    """What a user must know about these weights; shown wherever the plugin is chosen."""
    masks: bool = False
    """Whether the network also segments: called as `module(images, masks=True)` it returns `Segmented`."""
    build: Callable[[Recipe, bool], "nn.Module"] = build_timm
    """`build(recipe, pretrained)` returns a network that maps `(N, C, H, W)` windowed images to `(N, 6)` logits in the
    order of `ichx.labels.LABELS`.

    C is `recipe.input.channels`: the three windows or, with `input.neighbours`, the windows of each slice, slice by
    slice. Values are in [0, 1] unless `input.normalize` changes that. If the network has `get_classifier()`, as timm's
    have, the input of the layer that it returns are the pooled features `(N, D)` of `--save features`. `build` raises
    an `IchxError` if pretrained weights are not available."""
    backbones: Literal["timm"] | tuple[str, ...] | None = None
    """Names that `build` accepts in `recipe.model.backbone`: those of timm, which the default `build` has, or these;
    None if any name may be valid. Another name is refused when an experiment is registered."""
    build_augmentation: AugmentationBuilder | None = None
    """The plugin's own augmentation, applied in training after the transforms of `recipe.augmentation`. With
    `augmentation.crop_first` it sees cropped images."""
    kind: Literal["slice", "sequence"] = "slice"
    """Whether the network classifies single images, or the slices of a series by what other networks make of them. A
    sequence plugin has `build_sequence` in place of `build`, and a recipe with a `[sequence]` table."""
    build_sequence: SequenceBuilder | None = None
    """`build_sequence(recipe, widths)` returns a network that maps a `SequenceBatch` to `SequenceLogits`, with random
    weights. Its heads are independent: each has weights of its own, and none sees what another computes."""

    def __post_init__(self) -> None:
        """Refuse a plugin whose recipe belongs to another one, or that lacks what its kind needs."""
        for recipe in (self.recipe, *self.presets.values()):
            if recipe.plugin != self.name:
                raise ValueError(f"plugin {self.name!r} declares a recipe of {recipe.plugin!r}")
        if self.kind == "sequence":
            if self.recipe.sequence is None or self.build_sequence is None:
                raise ValueError(f"plugin {self.name!r} of kind sequence needs build_sequence and recipe.sequence")
            return
        if self.recipe.sequence is not None or self.build_sequence is not None:
            raise ValueError(f"plugin {self.name!r} has build_sequence or recipe.sequence, but is not of that kind")
        if self.backbones is None and self.build is build_timm:
            object.__setattr__(self, "backbones", "timm")

    def with_preset(self, name: str) -> "Plugin":
        """Return the plugin with the preset `name` as its default recipe.

        Raises:
            NotFoundError: The plugin has no such preset.
        """
        if name not in self.presets:
            known = f"{self.name} has {', '.join(self.presets) or 'none'}."
            raise NotFoundError.named("preset", name, self.presets, known)
        return replace(self, recipe=self.presets[name])

    def recipe_for(self, *, size: int | None = None, crop: int | None = None, kind: str | None = None) -> Recipe:
        """Return the default recipe at another `size` or `crop` (pixels) or window `kind`.

        The plugin's crop holds at its size only: images of another size are not cropped unless `crop` is set.

        Raises:
            InvalidInputError: The crop is larger than the image, or the plugin reads no images.
        """
        if self.kind == "sequence":
            if (size, crop, kind) != (None, None, None):
                raise InvalidInputError(
                    f"{self.name} reads no images.", "Leave out --size, --crop, --sigmoid and --linear."
                )
            return self.recipe
        image = self.recipe.input
        size = image.size if size is None else size
        if crop is None:
            crop = image.crop if size == image.size else 0
        if crop > size:
            raise InvalidInputError(
                f"A crop of {crop} px does not fit into {size} px.", "Use a --crop of at most --size."
            )
        image = replace(image, size=size, crop=crop, window_kind=kind or image.window_kind)
        return replace(self.recipe, input=image)


def reference_recipe(
    name: str,
    backbone: str,
    *,
    batch: int,
    size: int = 256,
    crop: int = 224,
    kind: str = "linear",
    stages: tuple[StageRecipe, ...] = REFERENCE_STAGES,
) -> Recipe:
    """Return a recipe of the reference solution, which differ in little but these values."""
    return Recipe(
        plugin=name,
        model=ModelRecipe(backbone=backbone),
        input=InputRecipe(size=size, crop=crop, window_kind=kind),
        stage=stages,
        batch=batch,
        optimizer=OptimizerRecipe(decoupled=True),
        augmentation=AugmentationRecipe(crop_first=crop > 0),
    )
