"""What a recipe may hold: the choices, the bounds, and which values do not go together."""

import math
from collections.abc import Mapping
from dataclasses import fields

from ichx.recipe import FILE_WINDOW, MOST_NEIGHBOURS, Recipe, StageRecipe, flatten, literal

CHOICES: Mapping[str, tuple[str, ...]] = {
    "input.window_kind": ("linear", "sigmoid"),
    "input.centre": ("none", "slice", "series"),
    "input.resize": ("bilinear", "area"),
    "input.normalize": ("none", "imagenet"),
    "optimizer.name": ("radam", "adamw", "sgd"),
    "stage.*.sampling": ("fixed", "redrawn", "all"),
    "stage.*.scheduler": ("multistep", "cosine", "onecycle"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
}


def invalid_values(recipe: Recipe) -> list[str]:
    """Return one line for each value that no training could use; an empty list for a good recipe."""
    problems: list[str] = []
    flat = flatten(recipe)

    def need(good: bool, name: str, what: str) -> None:
        if not good:
            problems.append(f"{name} = {literal(flat[name])}: must be {what}")

    for name, value in flat.items():
        generic = ".".join(["stage", "*", name.split(".")[-1]]) if name.startswith("stage.") else name
        if generic in CHOICES:
            need(value in CHOICES[generic], name, "one of " + ", ".join(CHOICES[generic]))
        elif isinstance(value, float):
            need(math.isfinite(value), name, "a finite number")
    need(16 <= recipe.input.size <= 4096, "input.size", "between 16 and 4096 pixels")
    need(recipe.input.crop == 0 or 16 <= recipe.input.crop <= recipe.input.size, "input.crop", "0, or 16 to input.size")
    neighbours, windows = recipe.input.neighbours, len(recipe.input.windows)
    need(0 <= neighbours <= MOST_NEIGHBOURS, "input.neighbours", f"between 0 and {MOST_NEIGHBOURS}")
    if neighbours:
        need(windows in (1, 3), "input.windows", "one or three [centre, width] pairs")
        told = "series or none with input.neighbours, for slices that are moved one by one are no longer aligned"
        need(recipe.input.centre != "slice", "input.centre", told)
    else:
        need(windows == 3, "input.windows", "three [centre, width] pairs, or one with input.neighbours")
    need(
        all(len(w) == 2 and (tuple(w) == FILE_WINDOW or w[1] > 0) for w in recipe.input.windows),
        "input.windows",
        "pairs of centre and positive width, or [-1, -1] for the file's own",
    )
    need(1 <= recipe.batch <= 65536, "batch", "between 1 and 65536")
    need(0 <= recipe.seed < 2**32, "seed", "between 0 and 2^32 - 1")
    need(0 <= recipe.model.mask_weight <= 1000, "model.mask_weight", "between 0 and 1000")
    for name in ("model.dropout", "model.drop_path", "loss.label_smoothing", "ema.decay"):
        need(0 <= flat[name] < 1, name, "in [0, 1)")
    for name in ("optimizer.weight_decay", "optimizer.clip"):
        need(flat[name] >= 0, name, "0 or more")
    need(0 < recipe.optimizer.layer_decay <= 1, "optimizer.layer_decay", "in (0, 1]")
    for name in ("probability", "mix_probability"):
        need(0 <= getattr(recipe.augmentation, name) <= 1, f"augmentation.{name}", "in [0, 1]")
    for name in ("shift", "scale", "grid_limit", "window_scale"):
        need(0 <= getattr(recipe.augmentation, name) < 1, f"augmentation.{name}", "in [0, 1)")
    for name in ("rotate", "anchors", "elastic_alpha", "window_shift", "mixup", "cutmix"):
        need(getattr(recipe.augmentation, name) >= 0, f"augmentation.{name}", "0 or more")
    need(recipe.augmentation.grid_steps >= 1, "augmentation.grid_steps", "1 or more")
    need(recipe.augmentation.elastic_sigma > 0, "augmentation.elastic_sigma", "positive")
    if not recipe.stage:
        problems.append("a recipe needs at least one [[stage]]")
    names = [stage.name for stage in recipe.stage]
    problems += [f"two stages are called {literal(name)}" for name in sorted({n for n in names if names.count(n) > 1})]
    for stage in recipe.stage:
        if not stage.name.isidentifier():
            problems.append(f"stage name {literal(stage.name)}: must be a word of letters, digits and _")
        prefix = f"stage.{stage.name}"
        need(1 <= stage.epochs <= 10000, f"{prefix}.epochs", "between 1 and 10000")
        need(0 < stage.lr <= 10, f"{prefix}.lr", "in (0, 10]")
        need(stage.gamma > 0, f"{prefix}.gamma", "positive")
        rising = all(a < b for a, b in zip(stage.milestones, stage.milestones[1:], strict=False))
        need(rising and all(m >= 1 for m in stage.milestones), f"{prefix}.milestones", "rising epochs from 1")
        warmed = stage.warmup == 0 or 0 < stage.warmup < stage.epochs
        need(warmed, f"{prefix}.warmup", "0, or fewer epochs than the stage has")
        frozen = stage.freeze == 0 or 0 < stage.freeze <= stage.epochs
        need(frozen, f"{prefix}.freeze", "0, or at most the stage's epochs")
        need(stage.patience >= 0, f"{prefix}.patience", "0 or more")
        problems += _unused(stage, prefix)
    return problems


def _unused(stage: StageRecipe, prefix: str) -> list[str]:
    """Return one line for each value that the stage's scheduler does not have."""
    if stage.scheduler not in ("cosine", "onecycle"):
        return []
    foreign = ["milestones", "gamma", *(["warmup"] if stage.scheduler == "onecycle" else [])]
    values = {spec.name: (getattr(stage, spec.name), spec.default) for spec in fields(StageRecipe)}
    return [
        f"{prefix}.{name} = {literal(value)}: must be {literal(default)}, for `{stage.scheduler}` has none"
        for name, (value, default) in values.items()
        if name in foreign and value != default
    ]
