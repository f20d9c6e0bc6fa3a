"""`ichx exp name`, `tag`, `note`, `clone`, `archive`, `rm` and `restore`: keep order among experiments."""

from typing import Annotated

import typer

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number, Numbers, complete_tag
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError, raise_problems

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def name(number: Number, new: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")]) -> None:
    """Give an experiment another name.

    Example: `ichx exp name 6 wide-windows`
    """
    new = new.strip()
    if not new or len(new) > 200:
        raise IchxError("a name has between 1 and 200 characters", "choose another")
    with session() as project:
        project.store.rename(number, new)
    info(f"experiment {number} is called {new}")


def tag(
    number: Number,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[TAG]...", autocompletion=complete_tag, help="Tags to add.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", autocompletion=complete_tag, help="A tag to remove; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add tags to an experiment, or remove some; without tags, print those that it has.

    Example: `ichx exp tag 6 best paper`
    """
    wrong = [word for word in tags or () if not word.strip() or "," in word or len(word) > 200]
    raise_problems([f"{word!r} is no tag" for word in wrong], "a tag is a word of at most 200 characters, no comma")
    with session() as project:
        if tags or remove:
            project.store.change_tags(number, add=[word.strip() for word in tags or ()], remove=remove or ())
        found = project.store.experiment(number).tags
    if as_json:
        print_json(found)
    elif found:
        console.print(", ".join(found), markup=False)
    else:
        info(f"experiment {number} has no tags")


def note(
    number: Number,
    text: Annotated[str | None, typer.Argument(help="What to write down.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a note about an experiment; without a text, print its notes.

    Example: `ichx exp note 6 "epidural is still weak below 5 mm"`
    """
    if text is not None and not text.strip():
        raise IchxError("the note is empty", "write something")
    with session() as project:
        project.store.experiment(number)
        if text is not None:
            project.store.add_note(number, text.strip())
        found = project.store.notes(number)
    if as_json:
        print_json(found)
        return
    if not found:
        info(f"experiment {number} has no notes")
    for written in found:
        console.print(f"{format_value(written.created)}: {written.text}", markup=False)


def clone(
    number: Number,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value of the recipe to change, such as stage.full.lr=5e-6; repeatable."),
    ] = None,
    dataset_version: Annotated[
        int | None, typer.Option("--dataset-version", help="Another version of its dataset; default: the same.")
    ] = None,
    folds: Annotated[str | None, typer.Option("--folds", help="Other folds of the dataset.")] = None,
    new_name: Annotated[str | None, typer.Option("--name", help="A name of your own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register an experiment like another one, with some values changed; it remembers what it was made from.

    Example: `ichx exp clone 6 --set stage.full.lr=5e-6`
    """
    from ichx.experiments.register import clone_experiment

    with session() as project:
        made = clone_experiment(
            project.store,
            project.registry,
            number,
            settings=settings or (),
            version=dataset_version,
            folds=folds,
            name=new_name,
        )
    if as_json:
        print_json(made)
    else:
        place = f"{made.dataset} v{made.dataset_version}"
        console.print(f"experiment {made.number}: {made.name} on {place}, from experiment {number}", markup=False)
    info(f"next: `ichx run {made.number}`")


def archive(
    numbers: Numbers, undo: Annotated[bool, typer.Option("--undo", help="Take them out of the archive.")] = False
) -> None:
    """Put experiments away: they keep everything, but are in no list and no `--top` any more.

    Example: `ichx exp archive 3 4`
    """
    with session() as project:
        project.store.archive(numbers, not undo)
    info(f"{_listed(numbers)} {'out of' if undo else 'in'} the archive")


def rm(numbers: Numbers) -> None:
    """Put experiments into the trash; `ichx gc` deletes what is there, `restore` takes it out again.

    Example: `ichx exp rm 3 4`
    """
    with session() as project:
        blends = project.store.blended_in(numbers)
        project.store.trash(numbers)
    back = f"`ichx exp restore {' '.join(map(str, numbers))}` takes {'it' if len(numbers) == 1 else 'them'} out"
    going = "" if set(numbers) <= set(blends) else ", `ichx gc` deletes for good"
    info(f"{_listed(numbers)} in the trash; {back}{going}")
    for number, ensembles in blends.items():
        told = f"ensemble{'s' if len(ensembles) > 1 else ''} {', '.join(map(str, ensembles))}"
        info(f"experiment {number} stays on disk all the same, for {told} was made of it")


def restore(numbers: Numbers) -> None:
    """Take experiments out of the trash.

    Example: `ichx exp restore 3`
    """
    with session() as project:
        project.store.restore(numbers)
    info(f"{_listed(numbers)} out of the trash")


def tags(as_json: AsJson = False) -> None:
    """List all tags and how many experiments have each.

    Example: `ichx exp tags`
    """
    with session() as project:
        found = project.store.tags()
    if as_json:
        print_json(found)
    elif found:
        print_table("", ("tag", "experiments"), list(found.items()))
    else:
        info("no experiment has a tag; `ichx exp tag NUMBER TAG` adds one")


def _listed(numbers: list[int]) -> str:
    return f"experiment {numbers[0]} is" if len(numbers) == 1 else f"experiments {', '.join(map(str, numbers))} are"
