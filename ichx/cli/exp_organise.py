"""`ichx exp name`, `tag`, `tags`, `note`, `clone`, `archive`, `rm` and `restore`: organise experiments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, notice, print_json
from ichx.cli.parameters import AsJson, Number, Numbers, Settings, complete_tag
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import check_name
from ichx.experiments.annotations import check_note, check_tags
from ichx.formatting import format_value
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.store import Experiment


def name(number: Number, new: Annotated[str, typer.Argument(metavar="NAME", help="New name.")]) -> None:
    """Rename an experiment.

    Example: `ichx exp name 6 wide-windows`
    """
    new = check_name("name", new)
    with session() as project:
        project.store.rename(number, new)
    info(f"Renamed experiment {number} to {new}.")


def tag(
    number: Number,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG", autocompletion=complete_tag, help="Tags to add.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", autocompletion=complete_tag, help="Tag to remove; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add, remove or print the tags of an experiment.

    Example: `ichx exp tag 6 best paper`
    """
    added = check_tags(tags or ())
    with session() as project:
        if tags or remove:
            project.store.change_tags(number, add=added, remove=remove or ())
        found = project.store.experiment(number).tags
    if as_json:
        print_json(found)
    elif found:
        console.print(", ".join(found), markup=False)
    else:
        info(f"Experiment {number} has no tags.")


def note(
    number: Number,
    text: Annotated[str | None, typer.Argument(help="Text of a new note.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a note to an experiment, or print its notes.

    Example: `ichx exp note 6 "epidural is still weak below 5 mm"`
    """
    added = None if text is None else check_note(text)
    with session() as project:
        project.store.experiment(number)
        if added is not None:
            project.store.add_note(number, added)
        found = project.store.notes(number)
    if as_json:
        print_json(found)
        return
    if not found:
        info(f"Experiment {number} has no notes.")
    for entry in found:
        console.print(f"{format_value(entry.created)}: {entry.text}", markup=False)


def describe_equal(new: "Experiment", equal: "Sequence[Experiment]") -> str:
    """Return the note that the experiments `equal` have the recipe, data and folds of `new`."""
    examples = format_examples([f"{e.number} ({e.name}: {e.state})" for e in equal])
    count = format_count(len(equal), "other experiment")
    remedy = f"`ichx exp rm {new.number}` removes the new one."
    return f"{count} with the recipe, data and folds of experiment {new.number}{examples}. {remedy}"


def clone(
    number: Number,
    settings: Settings = None,
    dataset_version: Annotated[
        int | None, typer.Option("--dataset-version", help="Version of its dataset; default: the same.")
    ] = None,
    folds: Annotated[str | None, typer.Option("--folds", help="Folds of the dataset; default: the same.")] = None,
    new_name: Annotated[str | None, typer.Option("--name", help="Name of the experiment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a copy of an experiment with changed values.

    Example: `ichx exp clone 6 --set stage.full.lr=5e-6`
    """
    from ichx.experiments.register import clone_experiment, equal_experiments

    with session() as project:
        copy = clone_experiment(
            project.store,
            project.registry,
            number,
            settings=settings or (),
            version=dataset_version,
            folds=folds,
            name=new_name,
        )
        equal = equal_experiments(project.store, copy)
    if as_json:
        print_json(copy)
    else:
        place = f"{copy.dataset} v{copy.dataset_version}"
        console.print(f"experiment {copy.number}: {copy.name} on {place}, cloned from {number}", markup=False)
    if equal:
        notice(describe_equal(copy, equal))
    info(f"Next: `ichx run {copy.number}`")


def archive(
    numbers: Numbers, undo: Annotated[bool, typer.Option("--undo", help="Take them out of the archive.")] = False
) -> None:
    """Archive experiments: hide them from lists and `--top`.

    Nothing is deleted.

    Example: `ichx exp archive 3 4`
    """
    with session() as project:
        project.store.archive(numbers, not undo)
    info(f"{'Unarchived' if undo else 'Archived'} {_listed(numbers)}.")


def rm(numbers: Numbers) -> None:
    """Move experiments to the trash, from which `ichx gc` deletes.

    Example: `ichx exp rm 3 4`
    """
    with session() as project:
        blends = project.store.ensembles_containing(numbers)
        readers = project.store.sequences_of(numbers)
        project.store.trash(numbers)
    undo = f"Undo with `ichx exp restore {' '.join(map(str, numbers))}`"
    deletion = "" if set(numbers) <= set(blends) | set(readers) else "; delete permanently with `ichx gc`"
    info(f"Moved {_listed(numbers)} to the trash. {undo}{deletion}.")
    for number, ensembles in blends.items():
        members = f"ensemble{'s' if len(ensembles) > 1 else ''} {', '.join(map(str, ensembles))}"
        info(f"The files of experiment {number} are not deleted, because it is a member of {members}.")
    for number, experiments in readers.items():
        info(f"The files of experiment {number} are not deleted, because {_listed(experiments)} reads them.")


def restore(numbers: Numbers) -> None:
    """Restore experiments from the trash.

    Example: `ichx exp restore 3`
    """
    with session() as project:
        project.store.restore(numbers)
    info(f"Restored {_listed(numbers)}.")


def tags(as_json: AsJson = False) -> None:
    """List the tags with their number of experiments.

    Example: `ichx exp tags`
    """
    with session() as project:
        found = project.store.tags()
    if as_json:
        print_json(found)
    elif found:
        print_table("", ("tag", "experiments"), list(found.items()))
    else:
        info("No experiment has a tag. Add one: `ichx exp tag NUMBER TAG`")


def _listed(numbers: list[int]) -> str:
    return f"experiment{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
