"""`ichx run` with several experiments or jobs: each fold in its own process, a live view, and a table at the end."""

import contextlib
from typing import TYPE_CHECKING, Final

import typer

from ichx.cli.launch_view import LaunchView
from ichx.cli.output import info, print_json, print_score, warn
from ichx.cli.placement import LOCAL, cluster_engine
from ichx.cli.tables import print_table
from ichx.formatting import format_duration
from ichx.jobs import LocalEngine
from ichx.jobs.launch import launch
from ichx.jobs.launch_report import LaunchReport, LaunchRequest, UnitResult
from ichx.signals import count_stop_signals, stop_exit_code

if TYPE_CHECKING:
    from ichx.project import Project


MAX_NUMBERS: Final = 6
"""Experiments in the commands of a message."""


def launch_folds(project: "Project", request: LaunchRequest, engine: str = LOCAL, *, as_json: bool) -> None:
    """Run the requested folds and print their results; exit with 1 if any is not done, or as a stopped run."""
    report = watch_launch(project, request, engine)
    if as_json:
        print_json(report)
    elif report.detached:
        _print_submitted(report)
    else:
        print_launch(report)
    _exit_unless_complete(report, request, engine)


def run_folds(project: "Project", request: LaunchRequest, engine: str = LOCAL) -> None:
    """Run the requested folds; print results only if not all are done, and exit as `launch_folds` does."""
    report = watch_launch(project, request, engine)
    if not report.complete:
        for unit in report.units:
            if (problem := _problem(unit)) is not None:
                warn(f"{unit.unit} {problem}")
    _exit_unless_complete(report, request, engine)


def _exit_unless_complete(report: LaunchReport, request: LaunchRequest, engine: str) -> None:
    active = [unit for unit in report.units if unit.state in ("queued", "running")]
    if active and (report.stopped or report.detached):
        experiments = list(dict.fromkeys(unit.experiment for unit in active))
        numbers = " ".join(map(str, experiments[:MAX_NUMBERS])) + " ..." * (len(experiments) > MAX_NUMBERS)
        folds = "".join(f" --fold {fold}" for fold in request.folds or ())
        jobs = "1 job continues" if len(active) == 1 else f"{len(active):,} jobs continue"
        info(
            f"{jobs} on {engine} without this command. `ichx run {numbers}{folds} --on {engine}` follows, "
            f"`ichx jobs` lists, `ichx jobs cancel {numbers}` cancels.",
            style="yellow" if report.stopped else "",
        )
    elif report.stopped:
        info("Stopped. Finished work is saved; the same command resumes.", style="yellow")
    if report.stopped:
        raise typer.Exit(stop_exit_code())
    problem_states = {"failed", "cancelled", "held"}
    if not report.complete and not (report.detached and not problem_states & {u.state for u in report.units}):
        raise typer.Exit(1)


def watch_launch(project: "Project", request: LaunchRequest, engine: str = LOCAL) -> LaunchReport:
    """Run the requested folds in a live view.

    On this machine, Ctrl-C stops them after their step, a second one at once. Jobs of a cluster continue.
    """
    # No grace period: a step may take long, and a second Ctrl-C kills.
    opened = (
        contextlib.closing(LocalEngine(request.jobs or 1, grace=None))
        if engine == LOCAL
        else cluster_engine(project, engine)
    )
    with count_stop_signals() as stops, LaunchView() as view, opened as executor:
        return launch(project, request, executor, callbacks=view, stop_level=stops)


def _print_submitted(report: LaunchReport) -> None:
    """Print the handles of jobs that nobody follows."""
    rows = [(unit.experiment, unit.fold, unit.state, unit.job) for unit in report.units]
    print_table("folds", ("experiment", "fold", "state", "job"), rows)


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
    if result.state == "cancelled":
        return f"was cancelled (job {result.job}); rerun the command to resume it"
    if result.holder is not None:
        holder = result.holder
        return f"is running in process {holder.pid} on {holder.host} since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
    return None
