"""`ichx exp export` and `import`: take an experiment to another machine."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number
from ichx.cli.session import session

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def export(
    number: Number,
    file: Annotated[Path, typer.Argument(help="The new file, a zip.")],
    weights: Annotated[bool, typer.Option("--weights", help="With the weights of every fold.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an experiment to one file: recipe, runs, history, predictions, tags and notes.

    Example: `ichx exp export 6 resnext50.zip --weights`
    """
    from ichx.text import format_bytes

    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.experiments.archive_export import export_experiment

        written = export_experiment(project, number, file, weights=weights)
    if as_json:
        print_json(written)
    else:
        info(f"experiment {number}: {written.files} files, {format_bytes(written.nbytes)} in {written.file}")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `ichx exp export` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Register the experiment in a file under a new number, on the dataset here that has its labels and folds.

    Example: `ichx exp import resnext50.zip`
    """
    with session() as project:
        from ichx.experiments.archive_import import import_experiment

        found = import_experiment(project, file)
    if as_json:
        print_json(found)
    else:
        console.print(f"experiment {found.number}: it was experiment {found.was} where it comes from", markup=False)
    for line in found.left_out:
        info(f"note: {line}", style="yellow")
