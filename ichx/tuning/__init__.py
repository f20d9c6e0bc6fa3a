"""Tuning: Optuna searches better values for a recipe. A trial is an experiment that runs as a job (`ichx.jobs`)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.workspace import Workspace


def database_path(workspace: "Workspace") -> Path:
    """Return the path of Optuna's storage; importing this does not import Optuna."""
    return workspace.root / "db" / "tuning.db"
