"""`ichx report`: an HTML page about an experiment or an ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import AsJson
from ichx.cli.session import session
from ichx.formatting import format_marks, format_value


def report(
    number: Annotated[int | None, typer.Argument(help="Experiment number.")] = None,
    ensemble: Annotated[int | None, typer.Option("--ensemble", help="Ensemble number, instead of NUMBER.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output file; default: report.html in the experiment's folder.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Replace slice ids by numbers; omit host names.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an HTML report of an experiment or ensemble.

    The page is one file that needs no network.

    Example: `ichx report 6`

    Example: `ichx report --ensemble 3 --anonymous --out blend.html`
    """
    if (number is None) == (ensemble is None):
        raise typer.BadParameter("Give either an experiment number or --ensemble NUMBER.")
    subject = ensemble if number is None else number
    assert subject is not None
    with session() as project:
        # report an unknown number before torch and pandas are imported
        if number is None:
            project.store.ensemble(subject)
        else:
            project.store.experiment(subject)
        from ichx.report import write_report

        with progress("report") as update:
            written = write_report(project, subject, out, ensemble=number is None, anonymous=anonymous, progress=update)
    for note in written.notes:
        warn(note)
    if as_json:
        print_json(written)
        return
    kind = "ensemble" if number is None else "experiment"
    score = "no finished fold" if written.score is None else f"OOF score {format_value(written.score)}"
    info(f"{kind} {subject}: {score}{format_marks(written.marks)}")
    console.print(str(written.path), markup=False)
