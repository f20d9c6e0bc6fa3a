"""`ichx exp`: register experiments, list them, look at one, compare two."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.compared import show_scores
from ichx.cli.plugin import loaded_registry
from ichx.cli.render import cell, console, interval, marked, print_json, say, session, table, warn
from ichx.data.wording import counted

if TYPE_CHECKING:
    from ichx.store import Experiment, ExperimentSummary

app = typer.Typer(help="Experiments: register, list, look, compare.", no_args_is_help=True)


@app.command("new")
def new(
    plugin: Annotated[str | None, typer.Option("--plugin", help="The model; see `ichx plugin list`.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Cached and trained image size, pixels; no crop.")] = None,
    crop: Annotated[int | None, typer.Option("--crop", help="Centre crop of that size, pixels.")] = None,
    sigmoid: Annotated[bool, typer.Option("--sigmoid", help="Sigmoid windows.")] = False,
    linear: Annotated[bool, typer.Option("--linear", help="Linear windows.")] = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The labelled dataset; default: the only one.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Folds of the dataset, see `ichx data folds`; default: ichx's own.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value of the recipe, such as stage.balanced.lr=5e-4; repeatable."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="A recipe as `ichx plugin show NAME --toml` prints it.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name of your own.")] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Register the reference solution's six, in order.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Register an experiment.

    Example: `ichx exp new --plugin resnext50 --size 378 --sigmoid`
    """
    from ichx.errors import IchxError
    from ichx.training.register import new_experiment, new_reference

    if sigmoid and linear:
        raise typer.BadParameter("give one of --sigmoid and --linear")
    kind = "sigmoid" if sigmoid else "linear" if linear else None
    registry = loaded_registry()
    with session() as (_, store):
        if reference:
            if plugin or file or size or crop or kind or settings or name:
                raise IchxError("--reference takes nothing but --dataset and --folds", "leave out the other options")
            made = new_reference(store, registry, dataset=dataset, folds=folds)
        else:
            made = [
                new_experiment(
                    store,
                    registry,
                    plugin=plugin,
                    file=file,
                    size=size,
                    crop=crop,
                    kind=kind,
                    settings=settings or (),
                    dataset=dataset,
                    folds=folds,
                    name=name,
                )
            ]
    if as_json:
        print_json(made)
    for e in made:
        if not as_json:
            console.print(f"experiment {e.number}: {e.name} on {e.dataset} v{e.dataset_version}", markup=False)
        notice = registry.get(e.plugin).notice
        if notice:
            say(f"note: {e.plugin}: {notice}", style="yellow")
    if made[0].leaked:
        warn(f"the folds {made[0].fold_set} split patients: every score will be marked `leaky folds`")
    say(f"next: `ichx run {made[-1].number}`")


@app.command("list")
def list_experiments(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only experiments on this dataset.")] = None,
    parent: Annotated[
        int | None, typer.Option("--parent", help="Only those made from this one, its tuning trials too.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, not the newest 50.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """List experiments, the newest first; tuning trials only with --parent.

    Example: `ichx exp list`
    """
    kind = "experiment" if parent is None else None
    with session() as (_, store):
        if parent is not None:
            store.experiment(parent)
        if dataset is not None:
            store.dataset(dataset)
        found = store.experiments(limit=None if everything else 50, dataset=dataset, kind=kind, parent=parent)
        total = store.count_experiments(dataset=dataset, kind=kind, parent=parent)
    if as_json:
        print_json(found)
        return
    if not found and parent is not None:
        say(f"nothing was made from experiment {parent}")
        return
    if not found:
        say("no experiment yet; register one: `ichx exp new --plugin NAME`, or six: `ichx exp new --reference`")
        return
    rows = [
        (e.number, e.name, f"{e.dataset} v{e.dataset_version}", f"{e.folds_done}/{e.folds}", e.state, scored(e))
        for e in found
    ]
    shown = f"{len(found)} of " * (len(found) < total) + counted(total, "experiment")
    table("", ("exp", "name", "dataset", "folds", "state", "OOF score"), rows, caption=shown)


@app.command("show")
def show(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    toml: Annotated[bool, typer.Option("--toml", help="Only its recipe, as TOML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show an experiment: its recipe, what it is pinned to, its folds and their attempts.

    Example: `ichx exp show 6`
    """
    with session() as (workspace, store):
        experiment = store.experiment(number)
        version = store.version_by_id(experiment.version_id)
        runs = store.runs(number)
        history = {fold: store.history(number, fold) for fold in sorted({run.fold for run in runs})}
    if toml:
        console.print(experiment.recipe, end="", markup=False)
        return
    if as_json:
        print_json({"experiment": experiment, "runs": runs, "history": history})
        return
    console.print(f"experiment {number}: {experiment.name} ({experiment.state})", markup=False, style="bold")
    for name, value in _pinned(experiment, version.fold_set(experiment.fold_set).leaking_patients):
        console.print(f"  {name:<10} {value}", markup=False)
    console.print(f"  {'files':<10} {workspace.experiment_dir(number)}", markup=False)
    rows = []
    for run in runs:
        reached = [i for i, r in enumerate(history[run.fold], 1) if (r.stage, r.epoch) == (run.stage, run.epoch)]
        last = [r for r in history[run.fold][: max(reached, default=0)] if "score" in r.values]
        took = "-" if run.ended is None else _took((run.ended - run.started).total_seconds())
        rows.append(
            (
                run.fold,
                run.attempt,
                run.state + (f": {run.error}" if run.error else ""),
                f"{run.epochs_done}/{experiment.epochs}",
                last[-1].values["score"] if last else None,
                run.device,
                took,
            )
        )
    if rows:
        table("runs", ("fold", "attempt", "state", "epochs", "score", "device", "time"), rows)
    console.print(experiment.recipe, end="", markup=False)


@app.command("diff")
def diff(
    first: Annotated[int, typer.Argument(help="An experiment's number.")],
    second: Annotated[int, typer.Argument(help="Another's.")],
    tta: Annotated[
        str, typer.Option("--tta", help="Views to average: none, or hflip (the slice and its mirror).")
    ] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Compare two experiments: values that differ, and their OOF scores, paired over the same patients.

    Example: `ichx exp diff 5 6`
    """
    from ichx.recipe import differences
    from ichx.recipe_text import from_toml
    from ichx.store import marks

    scores = None
    with session() as (workspace, store):
        one, two = store.experiment(first), store.experiment(second)
        recipe = differences(from_toml(one.recipe), from_toml(two.recipe))
        pins = {
            name: (getattr(one, name), getattr(two, name))
            for name in ("dataset", "dataset_version", "label_digest", "fold_set", "fold_digest")
            if getattr(one, name) != getattr(two, name)
        }
        if one.folds_done and two.folds_done and one.label_digest == two.label_digest:
            from ichx.evaluation.compare import compare_scores

            scores = compare_scores(workspace, store, one, two, tta=tta)
    if as_json:
        said = {str(e.number): marks(e) for e in (one, two)}
        print_json({"recipe": recipe, "pins": pins, "marks": said, "scores": scores})
        return
    heads = (f"{first}: {one.name}", f"{second}: {two.name}")
    rows = [(name, _value(a), _value(b)) for name, (a, b) in (pins | recipe).items()]
    if rows:
        table("", ("value", *heads), rows)
    else:
        say("their recipes, data and folds are the same")
    if scores is not None:
        show_scores(scores, one, two)
    elif one.label_digest != two.label_digest:
        say("they have other slices or labels: their scores cannot be compared")
    else:
        unrun = [str(e.number) for e in (one, two) if not e.folds_done]
        say(f"no scores to compare: no fold is finished of experiment {' and '.join(unrun)}")


def _value(value: object) -> str:
    """Return a recipe's value as TOML has it, texts without quotes; a dash for one that a recipe does not have."""
    if value is None or isinstance(value, str):
        return value or "-"
    return json.dumps(value)


def scored(e: "ExperimentSummary") -> str:
    """Return the score with its spread over folds and the marks that must follow it everywhere."""
    if e.score is None:
        return "-"
    spread = f" ± {cell(e.spread)}" if e.spread is not None else ""
    return cell(e.score) + spread + marked(e)


def _pinned(e: "Experiment", leaking: int) -> list[tuple[str, str]]:
    leaks = f"; {counted(leaking, 'patient')} in more than one" if leaking else ""
    return [
        ("dataset", f"{e.dataset} version {e.dataset_version}, labels {e.label_digest[:12]}"),
        ("folds", f"{e.folds_done} of {e.folds} done, {e.fold_set}, digest {e.fold_digest[:12]}{leaks}"),
        ("OOF score", _score_told(e)),
        ("recipe", e.recipe_digest),
        ("created", cell(e.created)),
    ]


def _score_told(e: "Experiment") -> str:
    """Return the score as `scored` does, with its interval, and what it is with hflip."""
    if e.score is None:
        return "-"
    plain = interval(e.score_low, e.score_high)
    told = scored(e) + (f"; 95 % interval over patients {plain}" if plain else "")
    if e.score_tta is None:
        return told
    flipped = interval(e.score_tta_low, e.score_tta_high)
    return f"{told}; with hflip {cell(e.score_tta)}" + (f", {flipped}" if flipped else "") + marked(e)


def _took(seconds: float) -> str:
    from ichx.cli.render import duration

    return duration(seconds)
