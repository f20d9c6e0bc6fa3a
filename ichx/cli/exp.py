"""`ichx exp`: register experiments, find, compare and organise them. The commands except `new` are in `exp_*.py`."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.exp_diff import diff
from ichx.cli.exp_external import external
from ichx.cli.exp_list import list_experiments
from ichx.cli.exp_organise import archive, clone, describe_equal, name, note, restore, rm, tag, tags
from ichx.cli.exp_promote import promote
from ichx.cli.exp_repro import repro
from ichx.cli.exp_show import history, log, show
from ichx.cli.exp_transfer import export, import_
from ichx.cli.exp_watch import watch
from ichx.cli.exp_winner import new_winner
from ichx.cli.mix import mix_parts
from ichx.cli.output import console, info, notice, print_json, warn
from ichx.cli.parameters import AsJson, Settings, complete_backbone, complete_plugin, experiment_numbers
from ichx.cli.session import session

app = typer.Typer(help="Experiments: register, find, compare and organise.", no_args_is_help=True)


@app.command("new")
def new(
    plugin: Annotated[
        str | None, typer.Option("--plugin", autocompletion=complete_plugin, help="Model; see `ichx plugin list`.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", autocompletion=complete_backbone, help="Another backbone, e.g. of timm."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Another recipe of the plugin; see `ichx plugin show`.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="Image size in pixels, without a crop.")] = None,
    crop: Annotated[int | None, typer.Option("--crop", help="Size of the centre crop in pixels.")] = None,
    sigmoid: Annotated[bool, typer.Option("--sigmoid", help="Use sigmoid windows.")] = False,
    linear: Annotated[bool, typer.Option("--linear", help="Use linear windows.")] = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Labelled dataset, or several: rsna+ours; default: the only one.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Folds of the dataset, see `ichx data folds`; default: ichx's own.")
    ] = None,
    settings: Settings = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="Recipe file, as `ichx plugin show NAME --toml` prints it.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the experiment.")] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Register this many, which differ in their seed only.")
    ] = 1,
    members: Annotated[
        str | None, typer.Option("--members", help="Experiments that a sequence experiment reads, e.g. 1,2.")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option("--inputs", help="What it reads of them: logits, features, or logits,features.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Register the six models of the reference solution.")
    ] = False,
    winner: Annotated[
        bool, typer.Option("--winner", help="Register CNNs and sequence models after the winners of RSNA 2019.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --winner: print the plan and its cost only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register an experiment.

    Example: `ichx exp new --plugin resnext50 --size 378 --sigmoid`

    Example: `ichx exp new --plugin resnext50 --backbone convnext_tiny.fb_in22k`

    Example: `ichx exp new --plugin convnext_small --preset three-stage`

    Example: `ichx exp new --plugin gru_stack --members 1,2 --inputs logits,features`

    Example: `ichx exp new --plugin resnext50 --seeds 3`

    Example: `ichx exp new --plugin resnext50 --dataset rsna+ours`

    Example: `ichx exp new --reference`

    Example: `ichx exp new --winner --dry-run`
    """
    from ichx.experiments.register import ExperimentRequest, equal_experiments, new_experiments, new_reference
    from ichx.plugins.backbones import cache_file
    from ichx.plugins.licences import licence_notice
    from ichx.recipe_text import from_toml

    if sigmoid and linear:
        raise typer.BadParameter("Use either --sigmoid or --linear.")
    kind = "sigmoid" if sigmoid else "linear" if linear else None
    chosen = plugin or preset or file or backbone or size or crop or kind or settings or name or members or inputs
    if (reference or winner) and (chosen or (reference and winner)):
        option = "--reference" if reference else "--winner"
        raise typer.BadParameter(f"{option} allows only --dataset and --folds. Leave out the other options.")
    if seeds > 1 and (reference or winner or members or inputs):
        raise typer.BadParameter("--seeds excludes --reference, --winner, --members and --inputs.")
    if dry_run and not winner:
        raise typer.BadParameter("--dry-run needs --winner.")
    if dataset is not None:
        mix_parts(dataset, as_json=as_json)
    if winner:
        new_winner(dataset, folds, dry_run=dry_run, as_json=as_json)
        return
    if backbone is not None and not cache_file().exists():
        info("listing the backbones of timm; the next time the list is cached")
    with session() as project:
        if reference:
            registered = new_reference(project.store, project.registry, dataset=dataset, folds=folds)
        else:
            request = ExperimentRequest(
                plugin=plugin,
                preset=preset,
                backbone=backbone,
                file=file,
                size=size,
                crop=crop,
                kind=kind,
                settings=settings or (),
                dataset=dataset,
                folds=folds,
                name=name,
                seeds=seeds,
            )
            if members is None and inputs is None:
                registered = new_experiments(project.store, project.registry, request)
            else:
                from ichx.experiments.register_sequence import new_sequence

                numbers = [] if members is None else experiment_numbers(members, "--members")
                kinds = None if inputs is None else [part.strip() for part in inputs.split(",")]
                made, space = new_sequence(project, request, numbers, kinds)
                registered = [made]
                if space is not None:
                    info(space)
        equal = [equal_experiments(project.store, e) for e in registered]
    if as_json:
        print_json(registered)
    for e, others in zip(registered, equal, strict=True):
        if not as_json:
            console.print(f"experiment {e.number}: {e.name} on {e.dataset} v{e.dataset_version}", markup=False)
        text = licence_notice(project.registry.get(e.plugin), from_toml(e.recipe))
        if text:
            notice(f"{e.plugin}: {text}")
        if others:
            notice(describe_equal(e, others))
    if registered[0].leaked:
        warn(f"The folds {registered[0].fold_set} split patients. All scores will be marked `leaky folds`.")
    wanted = [e.number for e in (registered if seeds > 1 else registered[-1:])]
    info(f"Next: `ichx run {' '.join(map(str, wanted))}`")


app.command("external")(external)
app.command("list")(list_experiments)
for command in (show, diff, history, log, watch, repro, clone, promote, name, tag, tags, note, archive, rm, restore):
    app.command(command.__name__)(command)
app.command("export")(export)
app.command("import")(import_)
