"""The recipe of a trial: the parent's recipe with the searched values, its stages shortened to a share."""

from collections.abc import Mapping
from dataclasses import replace

from ichx.recipe import Recipe, StageRecipe
from ichx.recipe_text import apply_settings
from ichx.text import parse_toml
from ichx.tuning.joint_values import JOINT, apply_joint

Value = float | int | str
"""A searched value; a choice is a string in TOML syntax."""


def trial_recipe(recipe: Recipe, values: Mapping[str, Value], length: float = 1.0) -> Recipe:
    """Return the recipe of a trial.

    If the length of a stage changes, everything that is counted in epochs of that stage changes in proportion.

    Args:
        recipe: The parent's recipe.
        values: Searched values by name.
        length: Share of the epochs of each stage; a stage has at least one.

    Raises:
        IchxError: The recipe cannot have these values together.
    """
    lengths = {name: _stage_length(value) for name, value in values.items() if _is_length(name)}
    valid = {name: epochs for name, epochs in lengths.items() if epochs is not None}
    stages = tuple(resize_stage(s, valid.get(f"stage.{s.name}.epochs", s.epochs)) for s in recipe.stage)
    joint = {name: _number(value) for name, value in values.items() if name in JOINT}
    others = {name: value for name, value in values.items() if name not in valid and name not in joint}
    changed = apply_settings(_with_stages(recipe, stages), format_settings(others))
    changed = apply_settings(apply_joint(changed, joint), ())  # checks the changed values
    return _with_stages(changed, tuple(resize_stage(s, max(round(s.epochs * length), 1)) for s in changed.stage))


def _with_stages(recipe: Recipe, stages: tuple[StageRecipe, ...]) -> Recipe:
    """Return `recipe` with other `stages`, and at most the epochs of the last one averaged."""
    last = stages[-1].epochs
    return replace(
        recipe,
        stage=stages,
        swa=replace(recipe.swa, epochs=min(recipe.swa.epochs, last)),
        prediction=replace(recipe.prediction, average_last=min(recipe.prediction.average_last, last)),
    )


def format_settings(values: Mapping[str, Value]) -> list[str]:
    """Return values as `ichx.recipe_text.apply_settings` takes them."""
    return [f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in values.items()]


def resize_stage(stage: StageRecipe, epochs: int) -> StageRecipe:
    """Return `stage` with `epochs`, and milestones, warm-up, frozen epochs and patience in proportion."""
    if epochs == stage.epochs:
        return stage
    part = epochs / stage.epochs
    milestones = sorted({max(round(milestone * part), 1) for milestone in stage.milestones})
    return replace(
        stage,
        epochs=epochs,
        milestones=tuple(milestones),
        warmup=stage.warmup * part,
        freeze=min(round(stage.freeze * part), epochs),
        patience=max(round(stage.patience * part), 1) if stage.patience else 0,
    )


def _stage_length(value: Value) -> int | None:
    """Return a valid number of epochs; None for other values, which `apply_settings` reports."""
    number = parse_toml(f"value = {value}")["value"] if isinstance(value, str) else value
    return number if isinstance(number, int) and number >= 1 else None


def _number(value: Value) -> float:
    number = parse_toml(f"value = {value}")["value"] if isinstance(value, str) else value
    return float(number)


def _is_length(name: str) -> bool:
    return name.startswith("stage.") and name.endswith(".epochs")
