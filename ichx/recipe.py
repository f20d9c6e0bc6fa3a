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

WINDOW_PARTS = ("centre", "width")
"""What a window's two numbers are called."""

MOST_NEIGHBOURS = 3
"""Slices above, and as many below, that may be channels."""


def _added(default: Any) -> Any:
    """Return a field that recipes of earlier versions do not have: at its default it is no part of a digest."""
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class ModelRecipe:
    """The network. `backbone` is a timm name with its weight tag, or a name that the plugin's own builder knows.

    `dropout` and `drop_path` are the shares of features and, growing with depth to this value, of residual branches
    that a training step leaves out. `mask_weight` is what the loss of the masks counts beside that of the labels, in a
    network that predicts masks.
    """

    backbone: str
    pretrained: bool = True
    dropout: float = 0.0
    drop_path: float = _added(0.0)
    mask_weight: float = _added(0.0)


@dataclass(frozen=True)
class InputRecipe:
    """What the network sees. `size` and `crop` in pixels; `crop = 0` keeps the whole image.

    `neighbours` is the number of slices above and below that are channels beside the slice itself, each in all of
    `windows`.
    """

    size: int
    crop: int = 0
    windows: tuple[tuple[float, float], ...] = REFERENCE_WINDOWS
    window_kind: str = "linear"
    centre: str = "slice"
    resize: str = "bilinear"
    normalize: str = "none"
    neighbours: int = _added(0)

    @property
    def pixels(self) -> int:
        """Edge length of the image that the network gets."""
        return self.crop or self.size

    @property
    def slices(self) -> int:
        """Slices that the network sees at once: one, or one with its neighbours."""
        return 2 * self.neighbours + 1

    @property
    def channels(self) -> int:
        """Channels of the image that the network gets: slice by slice in their order, each in all windows."""
        return self.slices * len(self.windows)


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer, made anew in each stage.

    `layer_decay` multiplies the learning rate once per layer from the head down (1: all learn alike), and `clip` bounds
    the norm of all gradients together (0: no bound).
    """

    name: str = "radam"
    weight_decay: float = 0.0
    layer_decay: float = _added(1.0)
    clip: float = _added(0.0)


@dataclass(frozen=True)
class LossRecipe:
    """The loss. `label_smoothing` moves every label by half of it towards 1/2."""

    label_smoothing: float = 0.0


@dataclass(frozen=True)
class EmaRecipe:
    """The moving average of the weights, which predicts in their place; `decay` is the share it keeps, 0 for none."""

    decay: float = 0.0


@dataclass(frozen=True)
class AugmentationRecipe:
    """With `probability` exactly one, evenly drawn, of the transforms that are on.

    `shift` and `scale` are shares of the image, `rotate` degrees, `anchors` and `elastic_*` pixels; 0 turns one off.
    Beside it, in every sample, each window's centre moves by up to `window_shift` HU, and its width changes by up to
    the share `window_scale`.

    Whole batches are mixed with `mix_probability`, each slice with its neighbour: `mixup` and `cutmix` are the alpha of
    the Beta distribution that the share is drawn from, 0 for off; where both are on, either is as likely.
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
    mixup: float = _added(0.0)
    cutmix: float = _added(0.0)
    mix_probability: float = _added(1.0)


@dataclass(frozen=True)
class StageRecipe:
    """One part of a training.

    `sampling`: `fixed` takes all `any`-positive slices and as many negatives, the same in every epoch; `redrawn` draws
    the negatives anew each epoch; `all` takes every slice. `scheduler`: `multistep` multiplies `lr` by `gamma` at each
    of `milestones`, counted in epochs of this stage; `cosine` lets `lr` fall to 0 over the stage; `onecycle` lets it
    rise to `lr` and then fall to almost 0. `warmup` epochs, a fraction allowed, come before with a rising rate. In the
    first `freeze` epochs only the head learns. With `patience` the stage ends after so many epochs in a row without a
    better validation score, 0 for never, and hands on the weights of its best epoch.
    """

    name: str
    sampling: str
    epochs: int
    lr: float
    scheduler: str = "multistep"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: float = _added(0.0)
    freeze: int = _added(0)
    patience: int = _added(0)


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
    loss: LossRecipe = _added(LossRecipe())  # noqa: RUF009 (a field)
    ema: EmaRecipe = _added(EmaRecipe())  # noqa: RUF009 (a field)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stage)

    @property
    def freezes(self) -> bool:
        """Whether there are epochs in which a part of the network does not learn."""
        return any(stage.freeze > 0 for stage in self.stage)

    @property
    def selects(self) -> bool:
        """Whether the training chooses by the validation score, which that score then flatters."""
        return any(stage.patience > 0 for stage in self.stage)


def literal(value: object) -> str:
    """Return `value` as TOML has it and settings take it; floats keep their shortest exact form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(item)}" for key, item in value.items()) + "}"
    return str(value)


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


def settable(recipe: Recipe) -> dict[str, Any]:
    """Return every value of `recipe` that can be set, by its name: those of `flatten`, and parts of them.

    Such parts are the windows' centres and widths in HU: `input.windows.2.centre` is that of the second window. The
    file's own window has none.
    """
    values = {name: value for name, value in flatten(recipe).items() if name != "plugin"}
    for number, window in enumerate(recipe.input.windows, start=1):
        if window != FILE_WINDOW:
            values |= {f"input.windows.{number}.{part}": window[at] for at, part in enumerate(WINDOW_PARTS)}
    return values


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ by name, in the first's order; None stands for one that a recipe does not have."""
    one, two = flatten(first), flatten(second)
    return {name: (one.get(name), two.get(name)) for name in one | two if one.get(name) != two.get(name)}


def digest(recipe: Recipe) -> str:
    """Return 16 hex digits that two recipes share exactly when they are equal, in whichever version they were made."""
    text = json.dumps(_digested(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digested(value: Any) -> Any:
    """Return `value` as JSON has it, without added fields that are at their default."""
    if not dataclasses.is_dataclass(value):
        return [_digested(item) for item in value] if isinstance(value, tuple) else value
    return {
        spec.name: _digested(getattr(value, spec.name))
        for spec in dataclasses.fields(value)
        if not ("added" in spec.metadata and getattr(value, spec.name) == spec.default)
    }
