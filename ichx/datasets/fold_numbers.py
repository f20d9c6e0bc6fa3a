"""Numbers of folds with a meaning of their own. This module imports nothing, so pages can use it without pandas."""

from typing import Final

TRAIN_ONLY: Final = -1
"""Fold of the slices that train in every fold and are scored in none; see `docs/data.md`."""
