"""What predicts and is scored: an experiment or an ensemble."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class Subject:
    """An experiment or ensemble."""

    number: int
    ensemble: bool = False

    @property
    def argument(self) -> str:
        """The arguments of a command that name it."""
        return f"--ensemble {self.number}" if self.ensemble else str(self.number)

    def folder(self, project: "Project") -> Path:
        """Return the folder of its files."""
        workspace = project.workspace
        return workspace.ensemble_dir(self.number) if self.ensemble else workspace.experiment_files(self.number).folder

    def require(self, project: "Project") -> None:
        """Raise `NotFoundError` unless it exists: before heavy libraries are imported."""
        if self.ensemble:
            project.store.ensemble(self.number)
        else:
            project.store.experiment(self.number)

    def __str__(self) -> str:
        return f"{'ensemble' if self.ensemble else 'experiment'} {self.number}"
