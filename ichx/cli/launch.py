"""`ichx run` with several experiments or jobs: each fold in a process of its own, a view of all, a table in the end."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ichx.cli.formatting import format_duration
from ichx.cli.launch_view import LaunchView
from ichx.cli.output import info, print_json, print_score, warn
from ichx.cli.tables import print_table
from ichx.jobs import LocalEngine
from ichx.jobs.launch import launch
from ichx.jobs.launch_events import LaunchReport, UnitResult
from ichx.signals import count_stop_signals

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.run_options import RunOptions


def launch_folds(
    project: "Project",
    numbers: Sequence[int],
    jobs: int,
    *,
    folds: Sequence[int] | None,
    options: "RunOptions",
    as_json: bool,
) -> None:
    """Run the folds of experiments `numbers`, `jobs` at a time, and show what came of each.

    Exits with 1 where something was asked for and is not done, with 130 when stopped.
    """
    # A job that stops may take as long as its step does; who does not want to wait asks twice.
    with (
        count_stop_signals() as stops,
        LaunchView() as view,
        contextlib.closing(LocalEngine(jobs, grace=None)) as engine,
    ):
        report = launch(
            project,
            numbers,
            engine,
            jobs=jobs,
            folds=folds,
            options=options,
            events=view,
            stops=stops,
        )
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.stopped:
        info("stopped; what is finished is kept, and the same command goes on with the rest", style="yellow")
        raise typer.Exit(130)
    if not report.complete:
        raise typer.Exit(1)


def _show(report: LaunchReport) -> None:
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
        if (told := _why(unit)) is not None:
            warn(f"experiment {unit.experiment}, fold {unit.fold} {told}")
    for pooled in report.experiments:
        if pooled.error is not None:
            warn(f"experiment {pooled.experiment} has no score: {pooled.error}")
        else:
            print_score(pooled.experiment, pooled)


def _why(unit: UnitResult) -> str | None:
    if unit.state == "failed":
        return f"failed: {unit.reason}; its log: {unit.log}"
    if unit.holder is not None:
        since = unit.holder.since
        return f"is being run by process {unit.holder.pid} on {unit.holder.host} since {since:%Y-%m-%d %H:%M:%S} UTC"
    return None
