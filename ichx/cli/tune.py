"""`ichx tune`: search a better recipe for an experiment."""

import contextlib
import re
from pathlib import Path
from typing import Annotated, cast

import typer

from ichx.cli.output import info, print_json
from ichx.cli.parameters import Number, duration_seconds, gigabytes
from ichx.cli.session import session
from ichx.cli.tune_show import numbered, print_study, show
from ichx.cli.tune_space import space as space_
from ichx.text import format_count

DEVICE = r"auto|cpu|mps|cuda(:\d+)?"
STUDY = r"[\w][\w.-]{0,63}"
"""What a study may be called: its lock is a file of that name."""

app = typer.Typer()
app.command("show")(show)
app.command("space")(space_)


@app.callback(invoke_without_command=True)
def tune(
    number: Number,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials that the study shall have in the end, those before counted.")
    ] = 30,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials that run side by side.")] = 1,
    searches: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            help="Instead of the default space: NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B,C; repeatable.",
        ),
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="The same as a TOML file; `ichx tune space` prints the default one.")
    ] = None,
    fold: Annotated[int, typer.Option("--fold", min=0, help="The fold whose score is searched on.")] = 0,
    subset: Annotated[float, typer.Option("--subset", help="Share of the patients that trials see, such as 0.1.")] = 1,
    length: Annotated[float, typer.Option("--length", help="Share of each stage's epochs that trials train.")] = 1,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Stop after that time: 90m, 8h. The same command goes on.")
    ] = None,
    sampler: Annotated[str, typer.Option("--sampler", help="tpe, gp (Gaussian process) or random.")] = "tpe",
    pruner: Annotated[
        str, typer.Option("--pruner", help="What ends trials that lag behind: median, hyperband or none.")
    ] = "median",
    epoch_time: Annotated[
        str | None, typer.Option("--max-epoch-time", help="The longest epoch that is wanted, on all patients: 20m.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--max-memory", help="The most memory of the device that is wanted: 24GB.")
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="A name, for another study of the experiment.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Start from what fits in this .safetensors or .pth file.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes of a trial.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Search better values for an experiment's recipe; each trial is an experiment. Asked again, it goes on.

    The first trial is the recipe as it is. By default learning rates and lengths of the stages, weight decay, batch,
    augmentation, windows, dropout, label smoothing and averaging of the weights are searched.

    Example: `ichx tune 6 --trials 30`

    Example: `ichx tune 6 --trials 60 --subset 0.1 --length 0.5 --jobs 2 --timeout 8h`
    """
    from ichx.errors import IchxError

    if study and not re.fullmatch(STUDY, study):
        raise typer.BadParameter(f"{study!r}: give letters, digits, - and _, at most 64", param_hint="--study")
    if not re.fullmatch(DEVICE, device):  # here, for a first trial that fails would leave the study without the recipe
        raise typer.BadParameter(f"{device!r} is no device: auto, cpu, cuda, cuda:1 or mps", param_hint="--device")
    if searches and space:
        raise IchxError("--space and --search both say what is searched", "give one of them")
    seconds = None if timeout is None else duration_seconds(timeout, "--timeout")
    longest = None if epoch_time is None else duration_seconds(epoch_time, "--max-epoch-time")
    most = None if memory is None else gigabytes(memory, "--max-memory")
    with session() as project:
        experiment = project.store.experiment(number)  # an unknown number is told before Optuna is imported
        from ichx.cli.tune_view import TuneView
        from ichx.jobs import LocalEngine
        from ichx.recipe_text import from_toml
        from ichx.signals import count_stop_signals
        from ichx.training.run_options import RunOptions
        from ichx.tuning.limits import Limits
        from ichx.tuning.results import read_study
        from ichx.tuning.sampling import Sampler
        from ichx.tuning.space import parse_space, read_space
        from ichx.tuning.storage import Pruner
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
        # No grace period: a step may take long, and a second Ctrl-C kills.
        with (
            count_stop_signals() as stops,
            TuneView(project.workspace.root, number) as view,
            contextlib.closing(LocalEngine(jobs, grace=None)) as engine,
        ):
            request = TuneRequest(
                number,
                trials,
                jobs,
                space=searched,
                budget=Budget(fold, subset, length, options),
                limits=Limits(longest, most),
                sampler=cast(Sampler, sampler),  # `run_study` reports invalid names with all other problems
                pruner=cast(Pruner, pruner),
                study=study,
                timeout=seconds,
            )
            ended = run_study(project, request, engine, callbacks=view, stop_level=stops)
        found = read_study(project, number, study) if ended.finished else None
    if as_json:
        print_json(numbered(found) if found else None)
    elif found is not None:
        print_study(found, project.workspace.root)
    if ended.reason == "complete" and ended.new == 0:
        info(f"The study already has {format_count(ended.finished, 'trial')}. Use a larger --trials to add some.")
    if ended.reason != "complete":
        after = "" if ended.reason == "stopped" else f" after {timeout}"
        info(f"Stopped{after}. Finished work is saved; the same command resumes.", style="yellow")
    if ended.reason == "stopped":
        raise typer.Exit(130)
