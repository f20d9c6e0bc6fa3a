"""`ichx exp`: register experiments, list them, look at one, compare two."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.exp_diff import diff
from ichx.cli.exp_list import list_experiments
from ichx.cli.exp_organise import archive, clone, name, note, restore, rm, tag, tags
from ichx.cli.exp_promote import promote
from ichx.cli.exp_repro import repro
from ichx.cli.exp_show import history, log, show
from ichx.cli.exp_transfer import export, import_
from ichx.cli.exp_watch import watch
from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import complete_plugin
from ichx.cli.session import session

app = typer.Typer(help="Experiments: register, find, look at, compare, keep in order.", no_args_is_help=True)


@app.command("new")
def new(
    plugin: Annotated[
        str | None,
        typer.Option("--plugin", autocompletion=complete_plugin, help="The model; see `ichx plugin list`."),
    ] = None,
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
    from ichx.experiments.register import new_experiment, new_reference

    if sigmoid and linear:
        raise typer.BadParameter("give one of --sigmoid and --linear")
    kind = "sigmoid" if sigmoid else "linear" if linear else None
    with session() as project:
        if reference:
            if plugin or file or size or crop or kind or settings or name:
                raise IchxError("--reference takes nothing but --dataset and --folds", "leave out the other options")
            made = new_reference(project.store, project.registry, dataset=dataset, folds=folds)
        else:
            made = [
                new_experiment(
                    project.store,
                    project.registry,
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
        notice = project.registry.get(e.plugin).notice
        if notice:
            info(f"note: {e.plugin}: {notice}", style="yellow")
    if made[0].leaked:
        warn(f"the folds {made[0].fold_set} split patients: every score will be marked `leaky folds`")
    info(f"next: `ichx run {made[-1].number}`")


app.command("list")(list_experiments)
for command in (show, diff, history, log, watch, repro, clone, promote, name, tag, tags, note, archive, rm, restore):
    app.command(command.__name__)(command)
app.command("export")(export)
app.command("import")(import_)
