"""`ichx tune`: search better recipe values for an experiment. What a study found is printed by `ichx.cli.tune_show`."""

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ichx.cli.output import info, print_json
from ichx.cli.parameters import (
    AsJson,
    Device,
    Number,
    Pretrained,
    Weights,
    Workers,
    duration_seconds,
    gigabytes,
)
from ichx.cli.placement import PlacementOptions, cluster_engine, placed
from ichx.cli.session import session
from ichx.cli.tune_show import numbered, print_study, show
from ichx.cli.tune_space import space as space_
from ichx.text import format_count

STUDY_NAME = r"[\w][\w.-]{0,63}"
"""Valid study names: the study's lock file is named so."""

TUNER_BYTES = 4_000_000_000
"""Memory of a tuner that runs as a job: it only submits trials."""

app = typer.Typer()
app.command("show")(show)
app.command("space")(space_)


@app.callback(invoke_without_command=True)
@placed
def tune(
    context: typer.Context,
    number: Number,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Total number of trials, earlier ones included.")] = 30,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of trials that run in parallel.")] = 1,
    searches: Annotated[
        list[str] | None,
        typer.Option("--search", help="NAME=LOW..HIGH, NAME=off,LOW..HIGH, NAME=log:... or NAME=A,B,C; repeatable."),
    ] = None,
    space: Annotated[Path | None, typer.Option("--space", help="Search space as TOML; see `ichx tune space`.")] = None,
    fold: Annotated[int, typer.Option("--fold", min=0, help="Fold whose score is optimised.")] = 0,
    subset: Annotated[float, typer.Option("--subset", help="Share of the patients that trials use, e.g. 0.1.")] = 1,
    length: Annotated[float, typer.Option("--length", help="Share of each stage's epochs that trials train.")] = 1,
    timeout: Annotated[str | None, typer.Option("--timeout", help="Time limit, e.g. 90m, 8h.")] = None,
    sampler: Annotated[
        Literal["tpe", "gp", "random"], typer.Option("--sampler", help="Optuna sampler; gp is a Gaussian process.")
    ] = "tpe",
    pruner: Annotated[
        Literal["median", "hyperband", "none"], typer.Option("--pruner", help="Optuna pruner, which ends bad trials.")
    ] = "median",
    epoch_time: Annotated[
        str | None, typer.Option("--max-epoch-time", help="Limit for an epoch on all patients, e.g. 20m.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Limit for the device memory of a training, e.g. 24GB.")
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Name of a further study of the experiment.")] = None,
    warm_start: Annotated[
        bool,
        typer.Option("--warm-start/--no-warm-start", help="Try the best values of the plugin's earlier studies first."),
    ] = True,
    device: Device = "auto",
    pretrained: Pretrained = None,
    weights: Weights = None,
    workers: Workers = None,
    *,
    where: PlacementOptions,
    as_json: AsJson = False,
) -> None:
    """Search better recipe values with Optuna.

    Each trial is an experiment; the first one has the unchanged recipe. A rerun resumes the study. Trials are compared
    by their log loss after calibration within the fold. The default search space has a factor and a ratio of the
    learning rates, weight decay, strength of the augmentation, drop path or dropout, weight averaging and batch.

    Example: `ichx tune 6 --trials 30`

    Example: `ichx tune 6 --trials 60 --subset 0.1 --length 0.5 --jobs 2 --timeout 8h`

    Example: `ichx tune 6 --trials 60 --jobs 20 --on slurm --gpus 1`
    """
    if study and not re.fullmatch(STUDY_NAME, study):
        problem = f"Invalid study name: {study!r}. Use at most 64 letters, digits, `-`, `_` and `.`."
        raise typer.BadParameter(problem, param_hint="--study")
    if searches and space:
        raise typer.BadParameter("Use either --space or --search.")
    seconds = None if timeout is None else duration_seconds(timeout, "--timeout")
    max_epoch_seconds = None if epoch_time is None else duration_seconds(epoch_time, "--max-epoch-time")
    max_gigabytes = None if max_memory is None else gigabytes(max_memory, "--max-memory")
    with session(writes=True) as project:
        experiment = project.store.experiment(number)  # report an unknown number before Optuna is imported
        placement = where.place(project.workspace)
        if placement.detach:
            from ichx.cli.command_jobs import command_arguments, submit_command
            from ichx.jobs.command_jobs import CommandRequest
            from ichx.jobs.engine import Resources

            words = command_arguments(context, drop=frozenset({"detach"}), on=placement.engine)
            small = replace(placement, resources=Resources(cpus=1, gpus=0, memory=TUNER_BYTES))
            submit_command(project, small, CommandRequest("tune", (words,), experiment=number), as_json=as_json)
        from ichx.cli.tune_view import TuneView
        from ichx.jobs import LocalEngine
        from ichx.recipe_text import from_toml
        from ichx.signals import count_stop_signals, stop_exit_code
        from ichx.training.run_options import RunOptions
        from ichx.tuning.limits import Limits
        from ichx.tuning.results import read_study
        from ichx.tuning.space import parse_space, read_space
        from ichx.tuning.study import TuneRequest
        from ichx.tuning.study import tune as run_study
        from ichx.tuning.trial import Budget

        recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
        searched = None
        if space is not None:
            searched = read_space(space, recipe)
        elif searches:
            searched = parse_space(searches, recipe)
        options = RunOptions(device=device, pretrained=pretrained, weights=weights, workers=workers)
        # No grace period: a trial stops after its current step, and a second Ctrl-C kills it.
        opened = (
            contextlib.closing(LocalEngine(jobs, grace=None))
            if placement.is_local
            else cluster_engine(project, placement.engine)
        )
        with (
            count_stop_signals() as stops,
            TuneView(project.workspace.root, number) as view,
            opened as engine,
        ):
            request = TuneRequest(
                number,
                trials,
                jobs,
                space=searched,
                budget=Budget(fold, subset, length, options),
                limits=Limits(max_epoch_seconds, max_gigabytes),
                sampler=sampler,
                pruner=pruner,
                study=study,
                timeout=seconds,
                resources=placement.resources,
                warm_start=warm_start,
            )
            report = run_study(project, request, engine, callbacks=view, stop_level=stops)
        found = read_study(project, number, study) if report.finished else None
    if as_json:
        print_json(numbered(found) if found else None)
    elif found is not None:
        print_study(found, project.workspace.root)
    if report.reason == "complete" and report.new == 0:
        info(f"The study has {format_count(report.finished, 'trial')} already. Add more with a larger --trials.")
    if report.reason != "complete":
        reason = "Stopped" if report.reason == "stopped" else f"Stopped after {timeout}"
        info(f"{reason}; finished trials are saved. Resume with the same command.", style="yellow")
    if report.reason == "stopped":
        raise typer.Exit(stop_exit_code())
