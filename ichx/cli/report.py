"""`ichx report`: an HTML page about an experiment or an ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import AsJson, parse_subject
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
    subject = parse_subject(number, ensemble)
    with session() as project:
        # report an unknown number before torch and pandas are imported
        subject.require(project)
        from ichx.report import write_report

        with progress("report") as update:
            written = write_report(
                project, subject.number, out, ensemble=subject.ensemble, anonymous=anonymous, progress=update
            )
    for note in written.notes:
        warn(note)
    if as_json:
        print_json(written)
        return
    score = "no finished fold" if written.score is None else f"OOF score {format_value(written.score)}"
    info(f"{subject}: {score}{format_marks(written.marks)}")
    console.print(str(written.path), markup=False)
