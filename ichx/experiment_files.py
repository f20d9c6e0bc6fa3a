"""Names of the files in an experiment's folder. Their contents: `ichx.training`, `ichx.experiments`."""

from typing import Final

START_FILE: Final = "start.json"
"""In an experiment's folder: the weights that all its folds start from."""

NOT_FINITE_FILE: Final = "nonfinite.json"
"""In a fold's folder, where its training diverged: the step and its slices."""
