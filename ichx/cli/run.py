"""`ichx run`: train experiments and predict their folds."""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ichx.child_processes import JOB
from ichx.cli.output import info, notice, print_json, print_score, warn
from ichx.cli.parameters import (
    AsJson,
    Device,
    Numbers,
    Pretrained,
    Save,
    Weights,
    Workers,
    duration_seconds,
)
from ichx.cli.placement import Placement, PlacementOptions, placed
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError
from ichx.formatting import format_duration
from ichx.text import format_bytes, format_count, format_folds

if TYPE_CHECKING:
    from ichx.experiments.run import RunReport
    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.training.run_options import RunOptions


MAX_JOBS: Final = 5
"""Jobs in a message."""


@placed
def run(
    numbers: Numbers,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Number of folds that run in parallel; default: 1, all on a cluster."),
    ] = None,
    device: Device = "auto",
    pretrained: Pretrained = None,
    weights: Weights = None,
    workers: Workers = None,
    save: Save = None,
    checkpoint_every: Annotated[
        str, typer.Option("--checkpoint-every", help="Time between checkpoints, e.g. 90s, 5m; 0: only after epochs.")
    ] = "5m",
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes (on each node) that train one fold together.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, help="Nodes of a Slurm job that train one fold together.")
    ] = 1,
    subset: Annotated[
        float | None, typer.Option("--subset", help="Quick look: a new experiment on this share of the patients.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--dry-run", help="Measure for seconds; print time, memory and disk. Run nothing.")
    ] = False,
    with_members: Annotated[
        bool, typer.Option("--with-members", help="Run what the members of a sequence experiment lack first.")
    ] = False,
    *,
    where: PlacementOptions,
    as_json: AsJson = False,
) -> None:
    """Train experiments and predict their folds.

    A rerun resumes from the newest checkpoint. Several experiments, or folds in parallel, run in separate processes,
    each with its log. They share the GPUs, or the cores of the CPU, and a failed fold does not stop the others.

    Example: `ichx run 6 --fold 0`

    Example: `ichx run 6 7 8 --jobs 2`

    Example: `ichx run 6 --dry-run`

    Example: `ichx run 6 --subset 0.05`

    Example: `ichx run 9 --with-members`

    Example: `ichx run 6 7 --on slurm --gpus 1 --time 8h`
    """
    with session() as project:
        placement = where.place(project.workspace)
        if estimate and placement.chosen and not placement.is_local:
            raise typer.BadParameter("--dry-run measures this machine. Leave out --on.")
        if nodes > 1 and placement.engine == "ray":
            raise typer.BadParameter("Several nodes train one fold under Slurm, not on Ray. Leave out --nodes.")
        if not placement.is_local and "RANK" in os.environ:
            raise typer.BadParameter("A process of a group cannot submit jobs. Use --on local.")
        if not estimate:
            project.store.check_writable()
        # Report an unknown number before torch is imported.
        experiments = [project.store.experiment(number) for number in numbers]
        if subset is not None and not estimate:
            experiments = _quick_looks(project, numbers, subset)
            numbers = [e.number for e in experiments]
        from ichx.training.run_options import RunOptions

        options = RunOptions(
            device=device,
            pretrained=pretrained,
            weights=weights,
            workers=workers,
            checkpoint_every=duration_seconds(checkpoint_every, "--checkpoint-every"),
            save_features=save is not None,
        )
        if estimate:
            _print_estimates(project, numbers, folds, options, subset, as_json=as_json)
            return
        if any(e.members for e in experiments):
            if max(processes, nodes) > 1 or "RANK" in os.environ:
                with_members = False  # only one process can wait for an answer
            if placement.detach and with_members:
                raise typer.BadParameter("--with-members waits for the members. Leave out --detach.")
            _run_members(project, experiments, folds, jobs, options, placement, run_all=with_members)
        if placement.is_local:
            _mention_jobs(project, numbers, folds)
        else:
            from ichx.cli.launch import launch_folds
            from ichx.jobs.launch_report import LaunchRequest

            # processes on each node: one per GPU
            together = processes if processes > 1 else max(placement.resources.gpus or 1, 1)
            request = LaunchRequest(
                tuple(numbers),
                tuple(folds) if folds else None,
                jobs,
                options,
                replace(placement.resources, nodes=nodes),
                _group_arguments(together, nodes),
                placement.detach,
            )
            launch_folds(project, request, placement.engine, as_json=as_json)
            return
        if (jobs or 1) > 1 or len(numbers) > 1:
            if max(processes, nodes) > 1 or "RANK" in os.environ:
                raise typer.BadParameter(
                    "Several processes train one experiment. Leave out --processes, --nodes and torchrun, or --jobs "
                    "and the other experiments."
                )
            from ichx.cli.launch import launch_folds
            from ichx.jobs.launch_report import LaunchRequest

            request = LaunchRequest(tuple(numbers), tuple(folds) if folds else None, jobs, options)
            launch_folds(project, request, as_json=as_json)
            return
        (number,) = numbers
        rank = int(os.environ.get("RANK", "0"))  # set in each process of a group
        if max(processes, nodes) > 1 and "RANK" not in os.environ:
            from ichx.training.spawn import run_processes

            raise typer.Exit(run_processes(sys.argv[1:], processes, nodes))
        from ichx.training.distributed import end_process, started_in_group

        report = _run(project, number, folds, options)
    if rank == 0:
        _print_report(report, as_json=as_json)
    if started_in_group():
        end_process()


def _group_arguments(processes: int, nodes: int) -> tuple[str, ...]:
    """Return the arguments of a job whose processes train one fold together."""
    arguments = ("--processes", str(processes)) if processes > 1 else ()
    return (*arguments, "--nodes", str(nodes)) if nodes > 1 else arguments


def _run(project: "Project", number: int, folds: list[int] | None, options: "RunOptions") -> "RunReport":
    """Run folds of an experiment in this process, with a live view."""
    from ichx.cli.live import LiveView
    from ichx.experiments.loggers.run_log import prints_into
    from ichx.experiments.run import run_experiment
    from ichx.training.distributed import AgreedError
    from ichx.training.stop_request import RunStopped

    rank = int(os.environ.get("RANK", "0"))
    # A job's output goes to its log, which has the lines of the view already.
    files = project.workspace.experiment_files(number)
    logged = any(prints_into(files.fold(fold).log) for fold in folds or ())
    try:
        with LiveView() if rank == 0 and not logged else nullcontext() as view:
            return run_experiment(project, number, folds=folds or None, options=options, callbacks=view)
    except RunStopped as stopped:
        if rank == 0:
            info(f"Stopped. Resume with `ichx run {number}`.", style="yellow")
        raise typer.Exit(stopped.exit_code) from stopped
    except KeyboardInterrupt:
        if rank == 0:
            info(f"Stopped at once. Resume from the newest checkpoint with `ichx run {number}`.", style="yellow")
        raise
    except IchxError as error:
        if rank == 0:
            raise
        if isinstance(error, AgreedError):
            raise typer.Exit(1) from error  # process 0 reports it
        raise type(error)(f"Process {rank}: {error.problem}", error.remedy) from error


def _run_members(
    project: "Project",
    experiments: "list[Experiment]",
    folds: list[int] | None,
    jobs: int | None,
    options: "RunOptions",
    placement: Placement,
    *,
    run_all: bool,
) -> None:
    """Run what the members of sequence experiments lack, if the user wants that; otherwise raise `NotReadyError`."""
    from ichx.experiments.sequence_members import missing_work, require_members

    wanted = {e.number: folds or list(range(e.folds)) for e in experiments}
    missing = {
        (work.experiment, work.folds): work for e in experiments for work in missing_work(project, e, wanted[e.number])
    }
    if missing and not run_all and sys.stdin is not None and sys.stdin.isatty():
        for work in missing.values():
            info(f"Member {work.experiment} {work.reason}.")
        run_all = typer.confirm("Run these members first?", err=True)
    if not run_all:
        for e in experiments:
            require_members(project, e, wanted[e.number])
    plain = replace(options, pretrained=None, weights=None, save_features=False)
    for work in missing.values():
        info(f"Member {work.experiment} {work.reason}; running it first.")
        if placement.is_local and jobs in (None, 1):
            _run(project, work.experiment, list(work.folds), plain)
            continue
        from ichx.cli.launch import run_folds
        from ichx.jobs.launch_report import LaunchRequest

        request = LaunchRequest((work.experiment,), work.folds, jobs, plain, placement.resources)
        run_folds(project, request, placement.engine)


def _mention_jobs(project: "Project", numbers: list[int], folds: list[int] | None) -> None:
    """Print which of the folds that run here have an active job on a cluster."""
    from ichx.store.jobs import ACTIVE

    if JOB in os.environ or os.environ.get("RANK", "0") != "0":
        return
    for number in numbers:
        jobs = [job for job in project.store.jobs(ACTIVE, experiments=[number]) if not folds or job.fold in folds]
        jobs = [job for job in jobs if job.fold is not None]
        if jobs:
            shown = [f"fold {job.fold} is {job.state} ({job.handle or job.submission})" for job in jobs[:MAX_JOBS]]
            shown += [f"{len(jobs) - MAX_JOBS:,} more"] if len(jobs) > MAX_JOBS else []
            notice(
                f"Experiment {number} has jobs: {', '.join(shown)}. `ichx jobs {number}` shows their present states, "
                f"`ichx jobs cancel {number}` cancels them."
            )


def _quick_looks(project: "Project", numbers: list[int], share: float) -> "list[Experiment]":
    """Return the quick looks at the experiments `numbers`."""
    from ichx.experiments.quick_look import quick_look

    in_group = "RANK" in os.environ  # several processes would register several
    looks = [quick_look(project, number, share, register=not in_group) for number in numbers]
    for number, look in zip(numbers, () if in_group else looks, strict=not in_group):
        info(f"experiment {look.number}: {100 * share:.3g} % of the patients of experiment {number}")
    return looks


def _print_estimates(
    project: "Project",
    numbers: list[int],
    folds: list[int] | None,
    options: "RunOptions",
    subset: float | None,
    *,
    as_json: bool,
) -> None:
    from ichx.experiments.dry_run import dry_run

    info("measuring on a sample of the slices")
    found = [dry_run(project, number, folds=folds, options=options, subset=subset) for number in numbers]
    if as_json:
        print_json([vars(e) | {"seconds": e.seconds} for e in found])
        return
    for e in found:
        work = f"{format_count(len(e.folds), 'fold')}, {format_count(e.epochs, 'epoch')}"
        rows = [
            ("cache", f"{format_count(e.cache_slices, 'slice')}, about {format_duration(e.cache_seconds)}"),
            ("training", f"{work}, about {format_duration(e.train_seconds)}"),
            ("prediction", f"about {format_duration(e.predict_seconds)}"),
            ("total time", f"about {format_duration(e.seconds)}, one fold after another"),
            ("memory", f"about {format_bytes(e.memory_bytes)} of {format_bytes(e.memory_total)}"),
            ("disk: cache", f"about {format_bytes(e.cache_bytes)} of {format_bytes(e.cache_free)} free"),
            ("disk: experiment", f"about {format_bytes(e.experiment_bytes)} of {format_bytes(e.experiment_free)} free"),
            ("device", e.hardware),
        ]
        part = f", {100 * e.subset:.3g} % of the patients" if e.subset < 1 else ""
        print_table(f"experiment {e.experiment} ({e.name}){part}: dry run", ("what", "estimate"), rows)
        if e.cache_bytes > e.cache_free or e.experiment_bytes > e.experiment_free:
            warn(f"experiment {e.experiment} does not fit on the disk.")


def _print_report(report: "RunReport", *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    if report.already_done:
        info(f"experiment {report.experiment}, {format_folds(report.already_done)}: already done")
    print_score(report)
