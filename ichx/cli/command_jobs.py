"""Submits the command that the user has given as a job of a cluster, and shows what it prints."""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from ichx.cli.output import err, info, notice, print_json, warn
from ichx.cli.placement import Placement, PlacementOptions, cluster_engine
from ichx.files import absolute_path
from ichx.jobs.command_jobs import CommandCallbacks, CommandRequest, CommandResult, run_commands
from ichx.signals import count_stop_signals, stop_exit_code
from ichx.text import escape, format_count

if TYPE_CHECKING:
    from ichx.project import Project

PLACEMENT_OPTIONS: Final = frozenset(option.name for option in fields(PlacementOptions))
"""Parameters of commands that a job does not get."""

PATH_TYPES: Final = frozenset({"path", "file", "directory"})
"""Names of the types of paths with versions of typer that give their values as strings."""


def command_arguments(context: typer.Context, *, drop: frozenset[str] = PLACEMENT_OPTIONS, **changed: Any) -> list[str]:
    """Return the arguments of `ichx` that give the present command, with absolute paths.

    Args:
        context: Context of the command.
        drop: Parameters to leave out.
        changed: Other values of parameters.
    """
    arguments = context.command_path.split()[1:]
    options: list[str] = []
    values = {**context.params, **changed}
    for parameter in context.command.params:
        value = values.get(parameter.name or "")
        if parameter.name in drop or value is None or value == () or value == [] or value == parameter.default:
            continue
        is_path = getattr(getattr(parameter, "type", None), "name", "") in PATH_TYPES
        several = [_text(one, is_path) for one in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            arguments += several
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [f"{parameter.opts[0]}={one}" for one in several]
    return arguments + options


def _text(value: object, is_path: bool) -> str:
    return str(absolute_path(Path(str(value)))) if is_path or isinstance(value, Path) else str(value)


def submit_command(
    project: "Project", placement: Placement, request: CommandRequest, *, as_json: bool, show_output: bool = True
) -> list[CommandResult]:
    """Run commands as jobs of a cluster; return their results unless one of them failed.

    Args:
        project: The open project.
        placement: Where the commands run.
        request: The commands.
        as_json: Print the handles of detached jobs as JSON.
        show_output: Print the standard output of a single job.

    Raises:
        typer.Exit: The jobs were only submitted, or the user stopped following them, or one of them failed.
    """
    request = replace(request, resources=placement.resources, detach=placement.detach)
    with (
        count_stop_signals() as stops,
        cluster_engine(project, placement.engine) as engine,
    ):
        view = _LogView(several=len(request.commands) > 1)
        results = run_commands(project, engine, request, view, lambda: stops() > 0)
    if not results:  # the user left before the jobs were submitted
        raise typer.Exit(stop_exit_code())
    if placement.detach or any(result.result is None for result in results):
        _print_submitted(results, detached=placement.detach, as_json=as_json and placement.detach)
        raise typer.Exit(0 if placement.detach else stop_exit_code())
    for result in results:
        assert result.result is not None
        if result.result.reason is not None and result.exit_code:
            warn(f"job {result.job} ended: {result.result.reason}; log: {result.log}")
    codes = [result.exit_code for result in results if result.exit_code]
    if show_output and len(results) == 1:
        _copy_output(results[0])
    if codes:
        raise typer.Exit(codes[0])
    return results


class _LogView(CommandCallbacks):
    """Prints the logs of jobs on standard error."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._trouble = ""

    def submitted(self, new: int, adopted: int) -> None:
        parts = [f"{format_count(new, 'job')} submitted"] if new else []
        parts += [f"following {format_count(adopted, 'job')} of an earlier command"] if adopted else []
        info(", ".join(parts), style="bold")

    def started(self, handle: str, name: str) -> None:
        info(f"job {handle} starts: {name}" if self._several else f"job {handle} starts")

    def printed(self, handle: str, text: str) -> None:
        label = f"{handle}: " if self._several else ""
        for line in text.splitlines():
            err.print(label + escape(line), markup=False, soft_wrap=True)

    def trouble(self, problem: str) -> None:
        if problem != self._trouble:
            notice(problem)
        self._trouble = problem


def _copy_output(result: CommandResult) -> None:
    """Print what the job has printed on its standard output."""
    if result.output.exists():
        sys.stdout.write(result.output.read_text(encoding="utf-8", errors="replace"))
        sys.stdout.flush()


def _print_submitted(results: Sequence[CommandResult], *, detached: bool, as_json: bool) -> None:
    if as_json:
        print_json([{"job": result.job, "log": result.log, "output": result.output} for result in results])
        return
    handles = " ".join(result.job for result in results[:1])
    for result in results:
        info(f"job {result.job}; log: {result.log}; output: {result.output}")
    info(
        f"The {'jobs continue' if len(results) > 1 else 'job continues'} without this command. The same command"
        f"{' without --detach' if detached else ''} follows, `ichx jobs` lists, `ichx jobs cancel {handles}` cancels."
    )
