"""What a trial trains: its parent's recipe with the values that it tries, its stages shortened to a share."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace

from ichx.recipe import Recipe, StageRecipe
from ichx.recipe_text import apply_settings

Value = float | int | str
"""What a trial gets for a name; a text is a choice, as TOML."""


def trial_recipe(recipe: Recipe, values: Mapping[str, Value], length: float = 1.0) -> Recipe:
    """Return `recipe` with `values`, and then each stage with a share `length` of its epochs, one at least.

    A stage that gets another length keeps its shape: what is counted in epochs within it changes in proportion.
    Raises `IchxError` for values that no training could use together.
    """
    lengths = {name: _whole(value) for name, value in values.items() if _is_length(name)}
    given = {name: epochs for name, epochs in lengths.items() if epochs is not None}
    stages = tuple(resized(s, given.get(f"stage.{s.name}.epochs", s.epochs)) for s in recipe.stage)
    others = {name: value for name, value in values.items() if name not in given}
    found = apply_settings(replace(recipe, stage=stages), settings(others))
    return replace(found, stage=tuple(resized(s, max(round(s.epochs * length), 1)) for s in found.stage))


def settings(values: Mapping[str, Value]) -> list[str]:
    """Return a trial's values as `ichx.recipe_text.apply_settings` takes them."""
    return [f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in values.items()]


def resized(stage: StageRecipe, epochs: int) -> StageRecipe:
    """Return `stage` with `epochs`, its milestones, warm-up, frozen epochs and patience in proportion."""
    if epochs == stage.epochs:
        return stage
    part = epochs / stage.epochs
    marks = sorted({max(round(mark * part), 1) for mark in stage.milestones})
    return replace(
        stage,
        epochs=epochs,
        milestones=tuple(marks),
        warmup=stage.warmup * part,
        freeze=min(round(stage.freeze * part), epochs),
        patience=max(round(stage.patience * part), 1) if stage.patience else 0,
    )


def _whole(value: Value) -> int | None:
    """Return a length that stages may have; others are left to `apply_settings` to refuse."""
    number = tomllib.loads(f"value = {value}")["value"] if isinstance(value, str) else value
    return number if isinstance(number, int) and number >= 1 else None


def _is_length(name: str) -> bool:
    return name.startswith("stage.") and name.endswith(".epochs")
