"""`ichx audit`: is an experiment's score what its stored files say, and out of fold?"""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number
from ichx.cli.session import session


def audit(
    number: Number,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Prove an experiment's OOF score from what is stored, and print what was checked; exit 1 if anything is wrong.

    Example: `ichx audit 6`
    """
    with session() as project:
        project.store.experiment(number)  # an unknown number is told before pandas is imported
        from ichx.evaluation.audit import audit as audited

        found = audited(project, number)
    if as_json:
        print_json({"valid": found.valid, "audit": found})
    else:
        said = f" [{', '.join(found.marks)}]" if found.marks else ""
        console.print(f"experiment {number}: {found.name}{said}", markup=False, style="bold")
        styles = {"ok": "green", "wrong": "bold red", "unknown": "yellow"}
        lines = Table.grid(padding=(0, 2))
        for check in found.checks:
            lines.add_row(Text(f"  {check.state}", styles[check.state]), Text(check.subject), Text(check.detail))
        for column in lines.columns:
            column.no_wrap, column.overflow = column is not lines.columns[-1], "fold"
        lines.columns[0].min_width = 10
        console.print(lines)
    wrong = sum(check.state == "wrong" for check in found.checks)
    if wrong:
        scored = any(check.subject == "score" for check in found.checks)
        so = ": this score cannot be trusted" if scored else ""
        info(f"{wrong} of {len(found.checks)} checks found something wrong{so}", style="red")
        raise typer.Exit(1)
    info(f"nothing is wrong in {len(found.checks)} checks")
