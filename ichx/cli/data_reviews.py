"""`ichx data reviews`: readers' reviews of slices."""

from typing import Annotated

import typer

from ichx.cli.output import info, print_csv, print_json
from ichx.cli.parameters import AsCsv, AsJson, DatasetName
from ichx.cli.session import session
from ichx.cli.tables import print_table


def list_reviews(
    name: DatasetName,
    number: Annotated[int | None, typer.Option("--version", help="Only this version; default: all.")] = None,
    history: Annotated[bool, typer.Option("--all", help="Include withdrawn reviews.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List readers' reviews of slices.

    Readers record them in the viewer of `ichx ui`: `label wrong`, `artefact` or `other`, with a label and a note.

    Example: `ichx data reviews rsna --csv > reviews.csv`
    """
    from ichx.datasets.reviews import COLUMNS, csv_rows

    with session() as project:
        project.store.version(name, number)
        found = project.store.reviews(name, number=number, withdrawn=history)
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(COLUMNS, csv_rows(found))
    elif not found:
        info(f"No reviews of {name} yet. Readers record them in `ichx ui`.")
    else:
        heads = ["id", "slice", "finding", "label", "note", "reader", "created"] + ["withdrawn"] * history
        rows = [[getattr(one, head) for head in heads] for one in found]
        print_table(f"reviews of {name}", heads, rows, drop=("created",), cut={"slice": 16})
