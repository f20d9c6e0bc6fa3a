"""`ichx tune space`: the default search space as a file to edit."""

import sys

from ichx.cli.parameters import Number
from ichx.cli.session import session


def space(number: Number) -> None:
    """Print the default search space as TOML for `--space`.

    Example: `ichx tune space 6 > space.toml`
    """
    with session() as project:
        experiment = project.store.experiment(number)
    from ichx.recipe_text import from_toml
    from ichx.tuning.default_space import default_space
    from ichx.tuning.space import to_toml

    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    sys.stdout.write(to_toml(default_space(recipe)))
