"""`ichx run`: execute experiments."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import info, print_json, print_score, warn
from ichx.cli.parameters import Numbers, Save, duration_seconds
from ichx.cli.session import session
from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.experiments.run import RunReport


def run(
    numbers: Numbers,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Folds that run side by side.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Start from what fits in this .safetensors or .pth file.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes.")] = None,
    save: Save = None,
    checkpoint_every: Annotated[
        str, typer.Option("--checkpoint-every", help="Time between checkpoints: 90s, 5m, 1h; 0: after each epoch only.")
    ] = "5m",
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes that train together.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Train and predict experiments' folds; asked again, it goes on where it ended.

    Several experiments, or folds side by side, run in processes of their own, each with a log; what fails does not stop
    the others. GPUs, or the CPU's cores, are divided among them.

    Example: `ichx run 6 --fold 0`

    Example: `ichx run 6 7 8 --jobs 2`
    """
    with session() as project:
        network = project.store.network_file_system()
        if network is not None:
            warn(f"the store lies on a network file system ({network}), where locks may fail: keep it on a local disk")
        for number in numbers:
            project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.training.run_options import RunOptions

        options = RunOptions(
            device=device,
            pretrained=pretrained,
            weights=weights,
            workers=workers,
            checkpoint_every=duration_seconds(checkpoint_every, "--checkpoint-every"),
            save_features=save is not None,
        )
        if jobs > 1 or len(numbers) > 1:
            if processes > 1 or "RANK" in os.environ:
                raise typer.BadParameter(
                    "several processes train one experiment; leave out --processes (or torchrun), or --jobs and the "
                    "other numbers"
                )
            from ichx.cli.launch import launch_folds
            from ichx.jobs.launch import LaunchRequest

            request = LaunchRequest(tuple(numbers), tuple(folds) if folds else None, jobs, options)
            launch_folds(project, request, as_json=as_json)
            return
        (number,) = numbers
        rank = int(os.environ.get("RANK", "0"))  # set where this is one of several processes already
        if processes > 1 and "RANK" not in os.environ:
            from ichx.training.spawn import run_processes

            raise typer.Exit(run_processes(sys.argv[1:], processes))
        from ichx.cli.live import LiveView
        from ichx.experiments.loggers.run_log import prints_into
        from ichx.experiments.run import run_experiment
        from ichx.training.distributed import AgreedError, end_process, started_in_group
        from ichx.training.stop_request import RunStopped

        # The log of a job gets what it prints, too: the view would say everything there a second time.
        files = project.workspace.experiment_files(number)
        logged = any(prints_into(files.fold(fold).log) for fold in folds or ())
        try:
            with LiveView() if rank == 0 and not logged else nullcontext() as view:
                report = run_experiment(project, number, folds=folds or None, options=options, events=view)
        except RunStopped as stopped:
            if rank == 0:
                info(f"stopped; `ichx run {number}` goes on from here", style="yellow")
            raise typer.Exit(stopped.exit_code) from stopped
        except KeyboardInterrupt:
            if rank == 0:
                info(f"stopped at once; `ichx run {number}` goes on from the last checkpoint", style="yellow")
            raise
        except IchxError as error:
            if rank == 0:
                raise
            if isinstance(error, AgreedError):
                raise typer.Exit(1) from error  # the first process tells it
            raise IchxError(f"process {rank}: {error.problem}", error.remedy) from error
    if rank == 0:
        _show(number, report, as_json=as_json)
    if started_in_group():
        end_process()


def _show(number: int, report: "RunReport", *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    if report.already_done:
        done = ", ".join(map(str, report.already_done))
        info(f"fold {done} of experiment {number} had been done before")
    print_score(number, report)
