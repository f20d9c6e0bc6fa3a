"""Where a command runs: on this machine, or as jobs of a cluster with resources."""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from ichx.cli.parameters import gigabytes
from ichx.jobs.engine import Resources
from ichx.workspace import ENGINE_VARIABLE

if TYPE_CHECKING:
    from ichx.jobs.recorded_engine import RecordedEngine
    from ichx.project import Project
    from ichx.workspace import Workspace

LOCAL: Final = "local"


@dataclass(frozen=True)
class Placement:
    """The engine of a command, and what each of its jobs needs."""

    engine: str
    chosen: bool
    """Whether the user has named the engine, instead of the settings."""
    resources: Resources = field(default_factory=Resources)
    detach: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the command runs on this machine."""
        return self.engine == LOCAL


@dataclass(frozen=True)
class PlacementOptions:
    """The options of a command that choose its placement; `placed` adds them to a command."""

    on: Annotated[
        Literal["local", "slurm", "ray"] | None,
        typer.Option("--on", help="Where to run; default: `default` in [engine] of ichx.toml, else local."),
    ] = None
    detach: Annotated[bool, typer.Option("--detach", help="Submit the jobs to the cluster and return at once.")] = False
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="CPU cores per node of each job on a cluster.")] = (
        None
    )
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs per node of each job on a cluster.")] = None
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory per node of each job on a cluster, e.g. 64GB.")
    ] = None
    time_limit: Annotated[
        str | None, typer.Option("--time", help="Time limit of each job on a cluster, e.g. 8h, 2d.")
    ] = None
    engine_options: Annotated[
        list[str] | None,
        typer.Option("--engine-option", help="Further option of the scheduler, e.g. --constraint=a100; repeatable."),
    ] = None

    def place(self, workspace: "Workspace") -> Placement:
        """Return the placement.

        Raises:
            typer.BadParameter: Options for clusters are given, but the command runs on this machine.
        """
        engine = self.on or os.environ.get(ENGINE_VARIABLE) or _default_engine(workspace)
        if engine == LOCAL and (given := self._given()):
            raise typer.BadParameter(f"Jobs on this machine do not use {', '.join(given)}. Add --on slurm or --on ray.")
        memory = None if self.memory is None else round(1e9 * gigabytes(self.memory, "--memory"))
        seconds = None if self.time_limit is None else _time_limit(self.time_limit)
        resources = Resources(self.cpus, self.gpus, memory, seconds, options=tuple(self.engine_options or ()))
        return Placement(engine, self.on is not None, resources, self.detach)

    def _given(self) -> list[str]:
        values = {
            "--detach": self.detach,
            "--cpus": self.cpus,
            "--gpus": self.gpus is not None,
            "--memory": self.memory,
            "--time": self.time_limit,
            "--engine-option": self.engine_options,
        }
        return [name for name, value in values.items() if value]


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `where` of a command, a `PlacementOptions`, by one parameter per option."""
    signature = inspect.signature(command)
    options = inspect.signature(PlacementOptions).parameters
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in signature.parameters.items():
        parameters |= options if name == "where" else {name: parameter}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(where=PlacementOptions(**{name: values.pop(name) for name in options}), **values)

    run.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return run


def _time_limit(text: str) -> float:
    """Return the seconds in the value of `--time`, which has the formats of `time` in the settings."""
    from ichx.jobs.engine_settings import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"Invalid time limit: {text!r}: {error}.", param_hint="--time") from error


def _default_engine(workspace: "Workspace") -> str:
    if not workspace.engine:
        return LOCAL
    from ichx.jobs.engine_settings import parse_engine_settings

    return parse_engine_settings(workspace.engine).default


@contextlib.contextmanager
def cluster_engine(project: "Project", name: str) -> "Iterator[RecordedEngine]":
    """Yield the engine `name`, whose jobs are recorded in the store of the project."""
    from ichx.jobs.reconcile import open_site_engine
    from ichx.jobs.recorded_engine import RecordedEngine

    with contextlib.closing(open_site_engine(project.workspace, name)) as engine:
        yield RecordedEngine(engine, project.store, project.workspace)
