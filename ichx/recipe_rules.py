"""Valid values of a recipe: choices, bounds, and combinations that exclude each other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields

from ichx.recipe import (
    FILE_WINDOW,
    MAX_CHANNELS,
    MAX_NEIGHBOURS,
    MAX_WINDOWS,
    Recipe,
    SequenceRecipe,
    StageRecipe,
    flatten,
    literal,
)
from ichx.views import views_problem

CHOICES: Mapping[str, tuple[str, ...]] = {
    "input.window_kind": ("linear", "sigmoid"),
    "input.centre": ("none", "slice", "series"),
    "input.resize": ("bilinear", "area"),
    "input.ends": ("repeat", "air"),
    "input.normalize": ("none", "imagenet", "inception"),
    "optimizer.name": ("radam", "adamw", "sgd"),
    "augmentation.policy": ("one", "each"),
    "stage.*.sampling": ("fixed", "redrawn", "all", "studies", "labels", "grouped"),
    "loss.study_pooling": ("max", "noisy_or", "posterior"),
    "stage.*.scheduler": ("multistep", "cosine", "onecycle"),
    "sequence.projection_kind": ("linear", "pca"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
}


PRIOR_SAMPLINGS = ("fixed", "redrawn")
"""Samplings that leave out slices by their label `any` alone, so that the prior of all labels is known."""

SEQUENCE_INPUTS = ("logits", "features")
"""What a network over series can read of its members."""

LEAST_FIELD, MOST_FIELD = 40, 1000
"""Bounds of `input.field` in mm."""

Require = Callable[[bool, str, str], None]
"""Takes whether a value is valid, its name, and the rule for it."""


def invalid_values(recipe: Recipe) -> list[str]:
    """Return one line per invalid value, e.g. `batch = 0: must be between 1 and 65536`."""
    problems: list[str] = []
    flat = flatten(recipe)

    def require(valid: bool, name: str, rule: str) -> None:
        if not valid:
            problems.append(f"{name} = {literal(flat[name])}: must be {rule}")

    for name, value in flat.items():
        generic = f"stage.*.{name.rpartition('.')[2]}" if name.startswith("stage.") else name
        if generic in CHOICES:
            require(value in CHOICES[generic], name, "one of " + ", ".join(CHOICES[generic]))
        elif isinstance(value, float):
            require(math.isfinite(value), name, "a finite number")
    if recipe.sequence is None:
        _check_image(recipe, require)
    else:
        _check_sequence(recipe, recipe.sequence, require)
    require(1 <= recipe.batch <= 65536, "batch", "between 1 and 65536")
    require(recipe.accumulate == 1 or 1 < recipe.accumulate <= recipe.batch, "accumulate", "between 1 and batch")
    require(0 <= recipe.seed < 2**32, "seed", "between 0 and 2^32 - 1")
    for name in ("loss.label_smoothing", "ema.decay"):
        require(0 <= flat[name] < 1, name, "in [0, 1)")
    for name in ("optimizer.weight_decay", "optimizer.clip", "loss.study_weight"):
        require(flat[name] >= 0, name, "0 or more")
    require(0 <= recipe.loss.study_start <= 1, "loss.study_start", "in [0, 1]")
    decoupled = not recipe.optimizer.decoupled or recipe.optimizer.name == "radam"
    require(decoupled, "optimizer.decoupled", "false, unless optimizer.name is radam")
    require(0 < recipe.optimizer.layer_decay <= 1, "optimizer.layer_decay", "in (0, 1]")
    if not recipe.stage:
        problems.append("stage: a recipe needs at least one [[stage]] table")
    names = [stage.name for stage in recipe.stage]
    problems += [f"stage.{name}: the name must be unique" for name in sorted({n for n in names if names.count(n) > 1})]
    for stage in recipe.stage:
        if not stage.name.isidentifier():
            problems.append(f"stage name {literal(stage.name)}: must consist of letters, digits and _")
        prefix = f"stage.{stage.name}"
        require(1 <= stage.epochs <= 10000, f"{prefix}.epochs", "between 1 and 10000")
        require(0 < stage.lr <= 10, f"{prefix}.lr", "in (0, 10]")
        require(stage.gamma > 0, f"{prefix}.gamma", "positive")
        rising = all(a < b for a, b in zip(stage.milestones, stage.milestones[1:], strict=False))
        require(rising and all(m >= 1 for m in stage.milestones), f"{prefix}.milestones", "increasing epochs from 1")
        short = stage.warmup == 0 or 0 < stage.warmup < stage.epochs
        require(short, f"{prefix}.warmup", "0, or less than the epochs of the stage")
        frozen = stage.freeze == 0 or 0 < stage.freeze <= stage.epochs
        require(frozen, f"{prefix}.freeze", "0, or at most the epochs of the stage")
        require(stage.patience >= 0, f"{prefix}.patience", "0 or more")
        require(stage.validate_every >= 1, f"{prefix}.validate_every", "1 or more")
        require(0 < stage.validation_share <= 1, f"{prefix}.validation_share", "in (0, 1]")
        _check_sampling(stage, prefix, require)
        _check_grouped(recipe, stage, prefix, require)
        problems += _unused(stage, prefix)
    return problems


def _check_sampling(stage: StageRecipe, prefix: str, require: Require) -> None:
    """Check what a stage draws, and whether its prior can be corrected."""
    by_study = stage.sampling in ("studies", "grouped")
    drawn = stage.per_study >= 1 if by_study else stage.per_study == 0
    rule = (
        f"1 or more with the sampling {stage.sampling}" if by_study else "0 unless the sampling is studies or grouped"
    )
    require(drawn, f"{prefix}.per_study", rule)
    reasons = {
        "all": "because every slice is used",
        "studies": "because labels do not decide which slices are drawn",
        "grouped": "because labels do not decide which slices are drawn",
        "labels": "because draws by several labels have no closed form of the prior",
    }
    rule = f"false with the sampling {stage.sampling}, {reasons.get(stage.sampling, '')}"
    require(not stage.prior_correction or stage.sampling in PRIOR_SAMPLINGS, f"{prefix}.prior_correction", rule)


def _check_grouped(recipe: Recipe, stage: StageRecipe, prefix: str, require: Require) -> None:
    """Check that batches have the slices of a study together."""
    if stage.sampling != "grouped" or stage.per_study < 1:
        return
    divides = stage.per_study <= recipe.batch and recipe.batch % stage.per_study == 0
    require(divides, f"{prefix}.per_study", "a divisor of batch with the sampling grouped")
    for name in ("mixup", "cutmix"):
        rule = f"0 with the sampling grouped of stage {stage.name}, which pools the slices of a study"
        require(getattr(recipe.augmentation, name) == 0, f"augmentation.{name}", rule)


def _check_last_epochs(recipe: Recipe, require: Require) -> None:
    """Check the averages over the last epochs."""
    if not recipe.stage:
        return
    last = recipe.stage[-1]
    swa, predictions = recipe.swa.epochs, recipe.prediction.average_last
    require(
        swa == 0 or 1 <= swa <= last.epochs, "swa.epochs", f"between 0 and the {last.epochs} epochs of the last stage"
    )
    name = "prediction.average_last"
    require(
        predictions == 1 or 1 <= predictions <= last.epochs,
        name,
        f"between 1 and the {last.epochs} epochs of the last stage",
    )
    require(swa == 0 or recipe.ema.decay == 0, "swa.epochs", "0 with ema.decay, which is an average already")
    require(swa == 0 or last.patience == 0, "swa.epochs", "0 with patience in the last stage")
    averaged = recipe.ema.decay > 0 or swa > 0
    require(predictions == 1 or not averaged, name, "1 with ema.decay or swa.epochs, which are averages already")
    require(predictions == 1 or last.patience == 0, name, "1 with patience in the last stage")


def _check_policy(recipe: Recipe, require: Require) -> None:
    """Check the transforms of the augmentation policy `each`."""
    given = recipe.augmentation
    defaults = {spec.name: spec.default for spec in fields(given)}
    if given.policy != "each":
        for name in given.of_each:
            rule = f"{literal(defaults[name])} unless augmentation.policy is each"
            require(getattr(given, name) == defaults[name], f"augmentation.{name}", rule)
        return
    for name in given.of_each:
        if name.endswith("_probability"):
            require(0 <= getattr(given, name) <= 1, f"augmentation.{name}", "in [0, 1]")
    for name in ("crop_area", "erase"):
        require(0 <= getattr(given, name) < 1, f"augmentation.{name}", "in [0, 1)")
    for name, most in (("noise", 1000), ("gamma", 4)):
        require(0 <= getattr(given, name) <= most, f"augmentation.{name}", f"between 0 and {most}")
    require(not given.reverse or recipe.input.neighbours > 0, "augmentation.reverse", "false without input.neighbours")


def _check_image(recipe: Recipe, require: Require) -> None:
    """Check the values of a network for images."""
    flat = flatten(recipe)
    given = recipe.input
    problem = views_problem(recipe.prediction.views)
    require(not problem, "prediction.views", problem)
    _check_last_epochs(recipe, require)
    _check_policy(recipe, require)
    require(16 <= given.size <= 4096, "input.size", "between 16 and 4096 pixels")
    require(given.crop == 0 or 16 <= given.crop <= given.size, "input.crop", "0, or 16 to input.size")
    require(0 <= given.neighbours <= MAX_NEIGHBOURS, "input.neighbours", f"between 0 and {MAX_NEIGHBOURS}")
    count = len(given.windows)
    fits = 1 <= count <= MAX_WINDOWS and (count == 1 or given.channels <= MAX_CHANNELS)
    most = f"{MAX_CHANNELS} channels, slices times windows"
    require(fits, "input.windows", f"1 to {MAX_WINDOWS} [centre, width] pairs, and at most {most}")
    if given.neighbours:
        aligned = "series or none with input.neighbours, because slices that are moved one by one are not aligned"
        require(given.centre != "slice", "input.centre", aligned)
    else:
        require(given.ends == "repeat", "input.ends", "repeat without input.neighbours")
    require(given.field == 0 or LEAST_FIELD <= given.field <= MOST_FIELD, "input.field", "0, or 40 to 1000 mm")
    require(
        all(len(w) == 2 and (tuple(w) == FILE_WINDOW or w[1] > 0) for w in given.windows),
        "input.windows",
        "pairs of centre and positive width, or [-1, -1] for the default window of the file",
    )
    require(0 <= recipe.model.mask_weight <= 1000, "model.mask_weight", "between 0 and 1000")
    require(0 <= recipe.model.bn_momentum <= 1, "model.bn_momentum", "in [0, 1]")
    for name in ("model.dropout", "model.drop_path"):
        require(0 <= flat[name] < 1, name, "in [0, 1)")
    for name in ("augmentation.probability", "augmentation.mix_probability"):
        require(0 <= flat[name] <= 1, name, "in [0, 1]")
    for name in ("shift", "scale", "grid_limit", "window_scale"):
        require(0 <= flat[f"augmentation.{name}"] < 1, f"augmentation.{name}", "in [0, 1)")
    for name in ("rotate", "anchors", "elastic_alpha", "window_shift", "mixup", "cutmix"):
        require(flat[f"augmentation.{name}"] >= 0, f"augmentation.{name}", "0 or more")
    require(recipe.augmentation.grid_steps >= 1, "augmentation.grid_steps", "1 or more")
    require(recipe.augmentation.elastic_sigma > 0, "augmentation.elastic_sigma", "positive")


def _check_sequence(recipe: Recipe, given: SequenceRecipe, require: Require) -> None:
    """Check the values of a network over series."""
    kinds = set(given.inputs)
    require(
        kinds <= set(SEQUENCE_INPUTS) and 0 < len(given.inputs) == len(kinds),
        "sequence.inputs",
        "a list of " + " and ".join(SEQUENCE_INPUTS) + ", at least one of them",
    )
    for name, most in (("parts", 64), ("seeds", 64), ("width", 4096), ("layers", 16), ("average_last", 1000)):
        require(1 <= getattr(given, name) <= most, f"sequence.{name}", f"between 1 and {most}")
    for name in ("dropout", "drop"):
        require(0 <= getattr(given, name) < 1, f"sequence.{name}", "in [0, 1)")
    for name in ("reverse", "every_second", "contiguous"):
        require(0 <= getattr(given, name) <= 1, f"sequence.{name}", "in [0, 1]")
    for name in ("study_weight", "mil_weight", "noise"):
        require(getattr(given, name) >= 0, f"sequence.{name}", "0 or more")
    require(not given.residual or "logits" in kinds, "sequence.residual", "false without logits among sequence.inputs")
    projected = given.projection == 0 or (1 <= given.projection <= 65536 and "features" in kinds)
    require(projected, "sequence.projection", "0, or 1 to 65536 with features among sequence.inputs")
    require(recipe.accumulate == 1, "accumulate", "1 with a sequence table, whose batches are small")
    for stage in recipe.stage:
        by_series = "all, fixed or redrawn with a sequence table"
        require(stage.sampling in ("all", *PRIOR_SAMPLINGS), f"stage.{stage.name}.sampling", by_series)
        prior = f"stage.{stage.name}.prior_correction"
        require(not stage.prior_correction, prior, "false with a sequence table, whose rows are series")
    require(recipe.optimizer.clip == 0, "optimizer.clip", "0 with a sequence table: heads must not share a norm")
    once = given.average_last == 1 or recipe.ema.decay == 0
    require(once, "sequence.average_last", "1 with ema.decay, which is an average already")


def _unused(stage: StageRecipe, prefix: str) -> list[str]:
    """Return one line per value that the scheduler of the stage ignores."""
    if stage.scheduler not in ("cosine", "onecycle"):
        return []
    ignored = ["milestones", "gamma", *(["warmup"] if stage.scheduler == "onecycle" else [])]
    values = {spec.name: (getattr(stage, spec.name), spec.default) for spec in fields(StageRecipe)}
    return [
        f"{prefix}.{name} = {literal(value)}: must be {literal(default)}, because `{stage.scheduler}` ignores it"
        for name, (value, default) in values.items()
        if name in ignored and value != default
    ]
