"""The default search space: learning rates, lengths, regularisation and augmentation around a recipe's values."""

from collections.abc import Iterator

from ichx.recipe import Recipe, settable
from ichx.tuning.space import Space, parse_space

RATES = 10.0
"""A stage's learning rate is searched between the recipe's value divided and multiplied by this."""

RANGES = {
    "augmentation.probability": (0.25, 1.0),
    "augmentation.rotate": (0.0, 45.0),
    "augmentation.shift": (0.0, 0.1),
    "augmentation.scale": (0.0, 0.2),
    "augmentation.window_shift": (0.0, 20.0),
    "augmentation.window_scale": (0.0, 0.2),
    "augmentation.mixup": (0.0, 0.4),
    "model.dropout": (0.0, 0.5),
    "loss.label_smoothing": (0.0, 0.1),
    "sequence.dropout": (0.0, 0.5),
    "sequence.drop": (0.0, 0.3),
    "sequence.noise": (0.0, 0.3),
    "sequence.study_weight": (0.0, 1.0),
}
"""Bounds in the recipe's units, of the values that a recipe has; they are extended to its value."""

WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
AVERAGES = (0.0, 0.99, 0.999)
"""Decays of the moving average of the weights; 0 is no average."""


def default_space(recipe: Recipe) -> Space:
    """Return the default search space of a recipe, which contains the recipe's own values."""
    return parse_space([f"{name}={text}" for name, text in _searches(recipe)], recipe)


def _searches(recipe: Recipe) -> Iterator[tuple[str, str]]:
    own = settable(recipe)
    for stage in recipe.stage:
        yield f"stage.{stage.name}.lr", f"log:{stage.lr / RATES:.4g}..{min(stage.lr * RATES, 10.0):.4g}"
        part = max(stage.epochs // 2, 1)
        yield f"stage.{stage.name}.epochs", f"{max(stage.epochs - part, 1)}..{stage.epochs + part}"
    yield "optimizer.weight_decay", _choices(*WEIGHT_DECAYS, recipe.optimizer.weight_decay)
    batches = (max(recipe.batch // 2, 1), recipe.batch, min(recipe.batch * 2, 65536))
    yield "batch", ",".join(map(str, dict.fromkeys(batches)))
    for name, (low, high) in RANGES.items():
        if name in own:
            yield name, f"{min(low, own[name])!r}..{max(high, own[name])!r}"
    for number, (centre, width) in enumerate(recipe.input.windows, start=1):
        if f"input.windows.{number}.centre" in own:
            yield f"input.windows.{number}.centre", f"{centre - width / 8:g}..{centre + width / 8:g}"
            yield f"input.windows.{number}.width", f"log:{width / 2:g}..{width * 2:g}"
    if recipe.sequence is None or recipe.sequence.average_last == 1:
        yield "ema.decay", _choices(*AVERAGES, recipe.ema.decay)


def _choices(*values: float) -> str:
    return ",".join(map(repr, sorted(set(values))))
