"""`ichx exp export` and `import`: move an experiment to another workspace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, notice, print_json
from ichx.cli.parameters import AsJson, Number
from ichx.cli.session import session
from ichx.text import format_bytes

if TYPE_CHECKING:
    from ichx.experiments.archive_export import ExportedArchive


def export(
    number: Number,
    file: Annotated[Path, typer.Argument(help="New zip file.")],
    weights: Annotated[bool, typer.Option("--weights", help="Include the weights of every fold.")] = False,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Include the checkpoints of unfinished folds, which can be resumed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export an experiment to an archive file.

    The archive holds recipe, runs, history, predictions, tags and notes.

    Example: `ichx exp export 6 resnext50.zip --weights`
    """
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.experiments.archive_export import archive_experiment

        written = archive_experiment(project, number, file, weights=weights, checkpoints=checkpoints)
    print_exported(f"experiment {number}", written, as_json=as_json)


def print_exported(what: str, written: "ExportedArchive", *, as_json: bool) -> None:
    """Print the archive file with an experiment or ensemble."""
    if as_json:
        print_json(written)
    else:
        info(f"Exported {what} to {written.file}: {written.files} files, {format_bytes(written.nbytes)}.")


def import_(
    file: Annotated[Path, typer.Argument(help="Archive file of `ichx exp export`.")],
    again: Annotated[
        bool, typer.Option("--again", help="Import a copy of an experiment that is here already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import an experiment from an archive file.

    The experiment gets a new number, and is pinned to the local dataset with the same labels and folds.

    Example: `ichx exp import resnext50.zip`
    """
    with session() as project:
        from ichx.experiments.archive_import import import_experiment

        found = import_experiment(project, file, again=again)
    if as_json:
        print_json(found)
    else:
        console.print(f"experiment {found.number}: imported, formerly experiment {found.was}", markup=False)
    for line in found.left_out:
        notice(line)
