"""A recipe: every value that determines a training, except the data, as frozen dataclasses.

Each value has a dotted name (`batch`, `input.size`, `stage.balanced.lr`); `docs/recipe.md` explains all of them. The
TOML form is in `ichx.recipe_text`, the rules for values are in `ichx.recipe_rules`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ichx.recipe_augmentation import AugmentationRecipe
from ichx.recipe_fields import added
from ichx.views import DEFAULT_VIEWS

__all__ = ["AugmentationRecipe"]

FILE_WINDOW = (-1.0, -1.0)
"""Placeholder for the default window in the header of each file."""

REFERENCE_WINDOWS = (FILE_WINDOW, (80.0, 200.0), (600.0, 2800.0))
"""The three channels of the reference as (centre, width) in HU: the file's default, subdural, bone."""

EXTERNAL_PLUGIN = "external"
"""The plugin that experiments with predictions of another tool name. It does not exist."""

WINDOW_PARTS = ("centre", "width")

MAX_NEIGHBOURS = 4
"""Maximum number of adjacent slices on each side that can be channels."""

MAX_WINDOWS = 9

MAX_CHANNELS = 21
"""Seven slices in three windows."""


@dataclass(frozen=True)
class ModelRecipe:
    """The network."""

    backbone: str
    """timm name with its weight tag, or a name that the plugin's own builder knows."""
    pretrained: bool = True
    dropout: float = 0.0
    drop_path: float = added(0.0)
    """Rate of stochastic depth at the last residual branch; it grows linearly with depth from 0."""
    bn_momentum: float = added(0.0)
    """Weight of a batch in the running statistics of batch-norm layers; 0 for the backbone's own."""
    mask_weight: float = added(0.0)
    """Weight of the mask loss relative to the label loss, in networks that predict masks."""
    checkpointing: bool = added(False)
    """Whether training computes activations again instead of keeping them, which takes less memory and more time."""
    sync_bn: bool = added(False)
    """Whether batch norms of several processes use the statistics of the complete batch."""


@dataclass(frozen=True)
class InputRecipe:
    """The image that the network gets."""

    size: int
    """Edge of the cached image in pixels."""
    crop: int = 0
    """Edge of the centre crop in pixels; 0 for no crop."""
    windows: tuple[tuple[float, float], ...] = REFERENCE_WINDOWS
    window_kind: str = "linear"
    centre: str = "slice"
    resize: str = "bilinear"
    normalize: str = "none"
    neighbours: int = added(0)
    """Adjacent slices on each side that become channels, each in all windows."""
    ends: str = added("repeat")
    """What neighbours are beyond the ends of a series: `repeat` its last slice, or `air`."""
    field: float = added(0.0)
    """Edge in mm of the square around the middle of the head that is cached; 0 for the complete image."""

    @property
    def pixels(self) -> int:
        """Edge of the network's input in pixels."""
        return self.crop or self.size

    @property
    def slices(self) -> int:
        """Number of slices in one input."""
        return 2 * self.neighbours + 1

    @property
    def channels(self) -> int:
        """Channels of the network's input, ordered by slice, then by window."""
        return self.slices * len(self.windows)


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer; each stage starts with a new one."""

    name: str = "radam"
    weight_decay: float = 0.0
    decoupled: bool = added(False)
    """Whether `radam` decays weights directly instead of through the gradient; `adamw` always does."""
    layer_decay: float = added(1.0)
    """Factor of the learning rate per layer, from the head down; 1 for one rate."""
    clip: float = added(0.0)
    """Maximum norm of all gradients together; 0 for no limit."""


@dataclass(frozen=True)
class LossRecipe:
    """The label loss."""

    label_smoothing: float = 0.0
    """Moves each label by half of this value towards 1/2."""
    study_pooling: str = added("noisy_or")
    """How the slices of a labelled study train on its label. Through one pooled probability: `noisy_or`,
    1 - prod(1 - p), or `max`, the largest; or each on its own, `posterior`, see `study_loss`."""
    study_start: float = added(0.5)
    """Share of the epochs, from the first one, in which `posterior` moves from a study's label to the posterior."""
    study_weight: float = added(1.0)
    """Weight of the loss of labelled studies relative to that of slices."""


@dataclass(frozen=True)
class EmaRecipe:
    """Exponential moving average of the weights, which predicts in their place."""

    decay: float = 0.0
    """Share of the average that a step keeps; 0 for no average."""


@dataclass(frozen=True)
class SwaRecipe:
    """Stochastic weight averaging: the mean of the weights after the last epochs, which predicts in their place."""

    epochs: int = 0
    """Last epochs of the training whose weights are averaged; 0 for no average."""


@dataclass(frozen=True)
class PredictionRecipe:
    """How a trained fold predicts."""

    views: tuple[str, ...] = DEFAULT_VIEWS
    """Names of `ichx.views`; the first one is `identity`."""
    average_last: int = 1
    """Last epochs of the training whose predictions are averaged; 1 for the last one only."""


@dataclass(frozen=True)
class StageRecipe:
    """One phase of a training."""

    name: str
    sampling: str
    """`fixed`: all `any`-positive slices and as many negatives, the same in every epoch; `redrawn`: other negatives in
    each epoch; `all`: every slice; `studies`: up to `per_study` slices of each study, redrawn; `labels`: as many slices
    as `redrawn`, half of them without hemorrhage, the rest evenly from the five subtypes, redrawn; `grouped`:
    `per_study` slices of each study, spread over its slices and next to each other in a batch, redrawn."""
    epochs: int
    lr: float
    scheduler: str = "multistep"
    """`multistep`: multiply `lr` by `gamma` at each milestone; `cosine`: fall to 0; `onecycle`: rise to `lr`, then fall
    to almost 0."""
    milestones: tuple[int, ...] = ()
    """Epochs of this stage."""
    gamma: float = 0.1
    warmup: float = added(0.0)
    """Epochs with a linearly rising rate at the beginning; may be a fraction."""
    freeze: int = added(0)
    """Epochs at the beginning in which only the head is trained."""
    patience: int = added(0)
    """Epochs without a better validation score after which the stage ends with its best weights; 0 for no limit."""
    per_study: int = added(0)
    """Slices of each study in an epoch, with `studies` and `grouped`; 0 otherwise."""
    prior_correction: bool = added(False)
    """Whether the loss of `fixed` and `redrawn` accounts for the negatives that they leave out."""
    validate_every: int = added(1)
    """Epochs between two validations; the last epoch of a stage is always validated."""
    validation_share: float = added(1.0)
    """Share of the validation rows that epochs before the last one are validated on, the same in all of them."""

    def validated_share(self, epoch: int) -> float:
        """Return the share of the validation rows that `epoch` (from 1) is validated on; 0 for none."""
        if epoch == self.epochs:
            return 1.0
        return self.validation_share if epoch % self.validate_every == 0 else 0.0


@dataclass(frozen=True)
class SequenceRecipe:
    """A network over the slices of a series, whose inputs are the outputs of other networks."""

    inputs: tuple[str, ...] = ("logits",)
    """`logits` and `features` of the members, one of them or both."""
    parts: int = 8
    """Parts of a fold's patients, each predicted by a head that has not seen it; with inputs of logits only."""
    seeds: int = 1
    """Heads that differ in their random draws only; their logits are averaged."""
    width: int = 64
    """Hidden units of a recurrent network per direction, or of a transformer's slice."""
    layers: int = 1
    dropout: float = 0.0
    differences: bool = False
    """Add the differences to both neighbours to the inputs."""
    residual: bool = False
    """Predict the difference to the members' mean logit, from zero."""
    projection: int = 0
    """Width to which the features of each member are reduced first; 0 keeps them."""
    projection_kind: str = "linear"
    """`linear`: a layer that learns; `pca`: principal components of the training slices."""
    study_weight: float = 0.25
    """Weight of the loss of the series' own prediction relative to that of the slices."""
    mil_weight: float = 0.1
    """Weight of the loss of the slices' maximum."""
    reverse: float = 0.0
    """Probability of an augmentation, like `every_second` and `contiguous`."""
    every_second: float = 0.0
    contiguous: float = 0.0
    drop: float = 0.0
    """Share of the slices that are left out."""
    noise: float = 0.0
    """Standard deviation of noise, as a share of that of the input in the series."""
    average_last: int = 1
    """Epochs whose predictions are averaged."""

    @property
    def heads(self) -> int:
        """Number of networks that are trained side by side."""
        return self.seeds * (self.parts if self.inputs == ("logits",) else 1)


@dataclass(frozen=True)
class Recipe:
    """Every value that determines a training, except the data."""

    plugin: str
    model: ModelRecipe
    input: InputRecipe
    stage: tuple[StageRecipe, ...]
    batch: int
    """Slices per step, over all processes together."""
    accumulate: int = added(1)
    """Parts into which each process divides its part of a batch; they go through the network one after another."""
    seed: int = 0
    precision: str = "auto"
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    loss: LossRecipe = added(LossRecipe())  # noqa: RUF009 (a field)
    ema: EmaRecipe = added(EmaRecipe())  # noqa: RUF009 (a field)
    swa: SwaRecipe = added(SwaRecipe())  # noqa: RUF009 (a field)
    prediction: PredictionRecipe = added(PredictionRecipe())  # noqa: RUF009 (a field)
    sequence: SequenceRecipe | None = added(None)  # noqa: RUF009 (a field)
    """Of networks over series only; they have no `model`, `input` and `augmentation`."""

    @property
    def epochs(self) -> int:
        """Number of epochs of all stages."""
        return sum(stage.epochs for stage in self.stage)

    @property
    def freezes(self) -> bool:
        """Whether a stage trains only the head in some epochs."""
        return any(stage.freeze > 0 for stage in self.stage)

    @property
    def selects(self) -> bool:
        """Whether the validation score chooses the weights, which makes that score optimistic."""
        return any(stage.patience > 0 for stage in self.stage)


IMAGE_TABLES = ("model", "input", "augmentation", "swa", "prediction")
"""Parts of a recipe that a network over series does not have."""

NO_IMAGE: Mapping[str, Any] = {
    "model": ModelRecipe(backbone="", pretrained=False),
    "input": InputRecipe(size=256),
    "augmentation": AugmentationRecipe(),
    "swa": SwaRecipe(),
    "prediction": PredictionRecipe(),
}
"""What the recipe of a network over series has in their place."""


def has_part(recipe: Recipe, name: str) -> bool:
    """Return whether `recipe` has the value or table `name`: networks over series have no images, others no series."""
    return recipe.sequence is None if name in IMAGE_TABLES else getattr(recipe, name) is not None


def literal(value: object) -> str:
    """Return `value` in TOML syntax; floats have their shortest exact form."""
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
    """Return every value of `recipe` by its dotted name, in the order of the fields."""
    flat: dict[str, Any] = {}
    for spec in dataclasses.fields(recipe):
        value = getattr(recipe, spec.name)
        if not has_part(recipe, spec.name):
            continue
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
    """Return every value that `apply_settings` can change, by its dotted name.

    Besides the values of `flatten` these are the centres and widths of the windows in HU, e.g. `input.windows.2.centre`
    for the second one, except for the file's default window.
    """
    values = {name: value for name, value in flatten(recipe).items() if name != "plugin"}
    windows = recipe.input.windows if has_part(recipe, "input") else ()
    for number, window in enumerate(windows, start=1):
        if window != FILE_WINDOW:
            values |= {f"input.windows.{number}.{part}": window[at] for at, part in enumerate(WINDOW_PARTS)}
    return values


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ, by dotted name; None for a value that one recipe lacks."""
    one, two = flatten(first), flatten(second)
    return {name: (one.get(name), two.get(name)) for name in one | two if one.get(name) != two.get(name)}


def digest(recipe: Recipe) -> str:
    """Return 16 hex digits that identify the values of `recipe`, whichever version of ichx created it."""
    text = json.dumps(_digested(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digested(value: Any) -> Any:
    """Return `value` for JSON, without added fields that have their default."""
    if not dataclasses.is_dataclass(value):
        return [_digested(item) for item in value] if isinstance(value, tuple) else value
    return {
        spec.name: _digested(getattr(value, spec.name))
        for spec in dataclasses.fields(value)
        if not ("added" in spec.metadata and getattr(value, spec.name) == spec.default)
    }
