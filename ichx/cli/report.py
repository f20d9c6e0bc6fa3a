"""`ichx report`: an experiment or an ensemble as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.session import session


def report(
    number: Annotated[int | None, typer.Argument(help="The experiment's number.")] = None,
    ensemble: Annotated[int | None, typer.Option("--ensemble", help="An ensemble's number instead.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: report.html in its folder.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Numbers instead of slice ids, and no host names.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Write a report: one HTML page that opens anywhere, without network.

    Example: `ichx report 6`

    Example: `ichx report --ensemble 3 --anonymous --out blend.html`
    """
    if (number is None) == (ensemble is None):
        raise typer.BadParameter("give an experiment's number or --ensemble NUMBER, one of them")
    wanted = ensemble if number is None else number
    assert wanted is not None
    with session() as project:
        # an unknown number is told before torch and pandas are imported
        if number is None:
            project.store.ensemble(wanted)
        else:
            project.store.experiment(wanted)
        from ichx.report import write_report

        with progress("report") as told:
            written = write_report(
                project,
                wanted,
                out,
                ensemble=number is None,
                anonymous=anonymous,
                progress=told,
            )
    for note in written.notes:
        warn(note)
    if as_json:
        print_json(written)
        return
    what = f"ensemble {wanted}" if number is None else f"experiment {wanted}"
    score = "no fold is finished yet" if written.score is None else f"OOF score {format_value(written.score)}"
    said = f" [{', '.join(written.marks)}]" if written.marks else ""
    info(f"{what}: {score}{said}")
    console.print(str(written.path), markup=False)
