"""Opens engines by name, with the settings of the workspace."""

from typing import TYPE_CHECKING

from ichx.errors import NotFoundError
from ichx.jobs.engine import Engine
from ichx.jobs.engine_settings import ENGINES, parse_engine_settings
from ichx.jobs.local_engine import LocalEngine

if TYPE_CHECKING:
    from ichx.workspace import Workspace


def open_engine(workspace: "Workspace", name: str, slots: int) -> Engine:
    """Return an engine.

    Args:
        workspace: Contains the settings, and the files of jobs that outlive this process.
        name: `local`, `slurm` or `ray`.
        slots: Number of jobs that run at the same time on this machine. Schedulers have limits of their own.

    Raises:
        NotFoundError: There is no such engine.
        InvalidInputError: The settings are invalid.
        MissingDependencyError: The programs or libraries of the engine are missing.
    """
    if name not in ENGINES:
        raise NotFoundError.named("engine", name, ENGINES, f"Engines: {', '.join(ENGINES)}.")
    settings = parse_engine_settings(workspace.engine)
    if name == "slurm":
        from ichx.jobs.slurm_engine import SlurmEngine

        return SlurmEngine(workspace, settings.slurm)
    if name == "ray":
        from ichx.jobs.ray_engine import RayEngine

        return RayEngine(workspace.jobs_dir, settings.ray)
    return LocalEngine(slots, grace=None)
