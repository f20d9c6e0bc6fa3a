"""`ichx report`: an experiment as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.render import cell, console, print_json, say, session


def report(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: report.html in the experiment's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Write an experiment's report: one HTML page that opens anywhere, without network.

    Example: `ichx report 6`
    """
    with session() as (workspace, store):
        store.experiment(number)  # an unknown number is told before matplotlib and pandas are imported
        from ichx.report import write_report

        written = write_report(workspace, store, number, out)
    if as_json:
        print_json(written)
        return
    score = "no fold is finished yet" if written.score is None else f"OOF score {cell(written.score)}"
    said = f" [{', '.join(written.marks)}]" if written.marks else ""
    say(f"experiment {number}: {score}{said}")
    console.print(str(written.path), markup=False)
