"""The recipe of an experiment compared with the default of its plugin."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ichx.errors import NotFoundError
from ichx.recipe import flatten
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class RecipeValue:
    """A recipe value by its dotted name; None where the recipe or the default does not have it."""

    recipe: Any
    """The experiment's value."""
    default: Any
    """The plugin's default."""

    @property
    def changed(self) -> bool:
        """Whether both differ."""
        return bool(self.recipe != self.default)


def recipe_values(project: "Project", experiment: "Experiment") -> dict[str, RecipeValue] | None:
    """Return the recipe values of `experiment` and the plugin's defaults by name; None without the plugin."""
    try:
        defaults = flatten(project.registry.get(experiment.plugin).recipe)
    except NotFoundError:
        return None
    values = flatten(from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}"))
    return {name: RecipeValue(values.get(name), defaults.get(name)) for name in {**values, **defaults}}
