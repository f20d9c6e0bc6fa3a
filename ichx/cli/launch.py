"""`ichx run` with several experiments or jobs: each fold in its own process, a live view, and a table at the end."""

import contextlib
from typing import TYPE_CHECKING

import typer

from ichx.cli.formatting import format_duration
from ichx.cli.launch_view import LaunchView
from ichx.cli.output import info, print_json, print_score, warn
from ichx.cli.tables import print_table
from ichx.jobs import LocalEngine
from ichx.jobs.launch import LaunchRequest, launch
from ichx.jobs.launch_report import LaunchReport, UnitResult
from ichx.signals import count_stop_signals, stop_exit_code

if TYPE_CHECKING:
    from ichx.project import Project


def launch_folds(project: "Project", request: LaunchRequest, *, as_json: bool) -> None:
    """Run the requested folds and print their results; exit with 1 if any is not done, or as a stopped run."""
    report = watch_launch(project, request)
    if as_json:
        print_json(report)
    else:
        print_launch(report)
    _exit_unless_complete(report)


def run_folds(project: "Project", request: LaunchRequest) -> None:
    """Run the requested folds; print results only if not all are done, and exit as `launch_folds` does."""
    report = watch_launch(project, request)
    if not report.complete:
        for unit in report.units:
            if (problem := _problem(unit)) is not None:
                warn(f"{unit.unit} {problem}")
    _exit_unless_complete(report)


def _exit_unless_complete(report: LaunchReport) -> None:
    if report.stopped:
        info("Stopped. Finished work is saved; the same command resumes.", style="yellow")
        raise typer.Exit(stop_exit_code())
    if not report.complete:
        raise typer.Exit(1)


def watch_launch(project: "Project", request: LaunchRequest) -> LaunchReport:
    """Run the requested folds in a live view. Ctrl-C stops them after their step, a second one at once."""
    # No grace period: a step may take long, and a second Ctrl-C kills.
    with (
        count_stop_signals() as stops,
        LaunchView() as view,
        contextlib.closing(LocalEngine(request.jobs, grace=None)) as engine,
    ):
        return launch(project, request, engine, callbacks=view, stop_level=stops)


def print_launch(report: LaunchReport) -> None:
    """Print a table of the folds, what went wrong, and the scores."""
    rows = [
        (
            unit.experiment,
            unit.fold,
            unit.state,
            unit.score,
            "-" if unit.seconds is None else format_duration(unit.seconds),
        )
        for unit in report.units
    ]
    print_table("folds", ("experiment", "fold", "state", "score", "time"), rows)
    for unit in report.units:
        if (problem := _problem(unit)) is not None:
            warn(f"{unit.unit} {problem}")
    for pooled in report.experiments:
        if pooled.error is not None:
            warn(f"experiment {pooled.experiment} has no score: {pooled.error}")
        else:
            print_score(pooled)


def _problem(result: UnitResult) -> str | None:
    if result.state == "failed":
        return f"failed: {result.reason}; log: {result.log}"
    if result.holder is not None:
        holder = result.holder
        return f"is running in process {holder.pid} on {holder.host} since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
    return None
