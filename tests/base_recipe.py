"""A recipe that tests change, and what is wrong with a changed one."""

import pytest

from ichx.errors import InvalidInputError
from ichx.plugins.contract import reference_recipe
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings

BASE = reference_recipe("mine", "resnet18.tv_in1k", batch=64)


def problems(recipe: Recipe, *settings: str) -> list[str]:
    """Return the problems that `apply_settings` reports."""
    with pytest.raises(InvalidInputError) as caught:
        apply_settings(recipe, settings)
    assert caught.value.remedy
    return caught.value.problem.splitlines()
