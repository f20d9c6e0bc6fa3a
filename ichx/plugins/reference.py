"""The reference solution's six experiments, in its numbering, and the TOML files that are written from them.

`python -m ichx.plugins.reference experiments` rewrites the files.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ichx.plugins.contract import REFERENCE_STAGES
from ichx.plugins.registry import Registry, load_registry
from ichx.recipe import Recipe, StageRecipe
from ichx.recipe_text import to_toml


@dataclass(frozen=True)
class ReferenceModel:
    """One of the six: its number is its place in `REFERENCE`, counted from 1."""

    plugin: str
    stages: tuple[StageRecipe, ...] | None = None
    """Stages in place of the plugin's own."""

    def recipe(self, registry: Registry) -> Recipe:
        """Return the complete recipe."""
        recipe = registry.get(self.plugin).recipe
        return recipe if self.stages is None else replace(recipe, stage=self.stages)


REFERENCE = (
    ReferenceModel("efficientnet_b3"),
    ReferenceModel("resnext101_wsl"),
    ReferenceModel("seresnext50", stages=REFERENCE_STAGES),
    ReferenceModel("efficientnet_b2"),
    ReferenceModel("seresnext50"),
    ReferenceModel("resnext50"),
)


def reference_files(registry: Registry) -> dict[str, str]:
    """Return the TOML text of each of the six by file name."""
    files = {}
    for number, model in enumerate(REFERENCE, start=1):
        heading = f"# Model {number} of the reference solution, written from the plugin {model.plugin!r}.\n"
        files[f"reference-{number}-{model.plugin}.toml"] = heading + to_toml(model.recipe(registry))
    return files


if __name__ == "__main__":
    for file_name, text in reference_files(load_registry()).items():
        (Path(sys.argv[1]) / file_name).write_text(text, encoding="utf-8")
