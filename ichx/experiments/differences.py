"""Recipes, data and folds of several experiments side by side. Their scores: `ichx.evaluation.compare`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ichx.store import Experiment

PINS: Final = ("plugin", "dataset", "dataset_version", "label_digest", "fold_set", "fold_digest")
"""Fields of an experiment that are compared, besides its recipe."""


def compared_values(experiments: "Sequence[Experiment]") -> dict[str, tuple[Any, ...]]:
    """Return the pins and recipe values of `experiments` by name; None for a value that a recipe lacks."""
    from ichx.recipe import flatten
    from ichx.recipe_text import from_toml

    recipes = [{"plugin": e.plugin} if e.external else flatten(from_toml(e.recipe)) for e in experiments]
    rows = {name: tuple(getattr(e, name) for e in experiments) for name in PINS}
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        rows.setdefault(name, tuple(recipe.get(name) for recipe in recipes))
    return rows


def differing_values(experiments: "Sequence[Experiment]") -> dict[str, tuple[Any, ...]]:
    """Return the pins and recipe values that are not the same in all `experiments`."""
    return {name: row for name, row in compared_values(experiments).items() if differs(row)}


def differs(row: Sequence[Any]) -> bool:
    """Return whether the values of a row are not all the same."""
    return any(value != row[0] for value in row)
