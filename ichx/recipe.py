"""A recipe: everything that determines a training, as frozen dataclasses.

Every value has a name (`batch`, `input.size`, `stage.balanced.lr`) by which it can be set, compared and read. Its TOML
form is in `ichx.recipe_text`, what no training could use in `ichx.recipe_rules`.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

FILE_WINDOW = (-1.0, -1.0)
"""Stands for the file's own default window."""

REFERENCE_WINDOWS = (FILE_WINDOW, (80.0, 200.0), (600.0, 2800.0))
"""The reference's three channels, (centre, width) in HU: the file's default, subdural, bone."""


@dataclass(frozen=True)
class ModelRecipe:
    """The network. `backbone` is a timm name with its weight tag, or a name that the plugin's own builder knows."""

    backbone: str
    pretrained: bool = True
    dropout: float = 0.0


@dataclass(frozen=True)
class InputRecipe:
    """What the network sees. `size` and `crop` in pixels; `crop = 0` keeps the whole image."""

    size: int
    crop: int = 0
    windows: tuple[tuple[float, float], ...] = REFERENCE_WINDOWS
    window_kind: str = "linear"
    centre: str = "slice"
    resize: str = "bilinear"
    normalize: str = "none"

    @property
    def pixels(self) -> int:
        """Edge length of the image that the network gets."""
        return self.crop or self.size


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer, made anew in each stage."""

    name: str = "radam"
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AugmentationRecipe:
    """With `probability` exactly one, evenly drawn, of the transforms that are on.

    `shift` and `scale` are shares of the image, `rotate` degrees, `anchors` and `elastic_*` pixels; 0 turns one off.
    Beside it, in every sample, each window's centre moves by up to `window_shift` HU, and its width changes by up to
    the share `window_scale`.
    """

    probability: float = 0.75
    hflip: bool = True
    shift: float = 0.05
    scale: float = 0.075
    rotate: float = 25.0
    grid_steps: int = 20
    grid_limit: float = 0.25
    anchors: float = 5.0
    elastic_alpha: float = 0.0
    elastic_sigma: float = 15.0
    window_shift: float = 0.0
    window_scale: float = 0.0


@dataclass(frozen=True)
class StageRecipe:
    """One part of a training.

    `sampling`: `fixed` takes all `any`-positive slices and as many negatives, the same in every epoch; `redrawn` draws
    the negatives anew each epoch; `all` takes every slice. `scheduler`: `multistep` multiplies `lr` by `gamma` at each
    of `milestones`, counted in epochs of this stage; `cosine` lets `lr` fall to 0 over the stage.
    """

    name: str
    sampling: str
    epochs: int
    lr: float
    scheduler: str = "multistep"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training, but the data."""

    plugin: str
    model: ModelRecipe
    input: InputRecipe
    stage: tuple[StageRecipe, ...]
    batch: int
    seed: int = 0
    precision: str = "auto"
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stage)


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return every value of `recipe` by its name, in the recipe's order."""
    flat: dict[str, Any] = {}
    for spec in dataclasses.fields(recipe):
        value = getattr(recipe, spec.name)
        if spec.name == "stage":
            for stage in value:
                for inner in dataclasses.fields(stage):
                    if inner.name != "name":
                        flat[f"stage.{stage.name}.{inner.name}"] = getattr(stage, inner.name)
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                flat[f"{spec.name}.{inner.name}"] = getattr(value, inner.name)
        else:
            flat[spec.name] = value
    return flat


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ by name, in the first's order; None stands for one that a recipe does not have."""
    one, two = flatten(first), flatten(second)
    return {name: (one.get(name), two.get(name)) for name in one | two if one.get(name) != two.get(name)}


def digest(recipe: Recipe) -> str:
    """Return 16 hex digits that two recipes share exactly when they are equal."""
    text = json.dumps(dataclasses.asdict(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
