"""`ichx audit`: verify an experiment's score against its stored files."""

import typer
from rich.table import Table
from rich.text import Text

from ichx.cli.formatting import format_marks
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, Number
from ichx.cli.session import session


def audit(number: Number, as_json: AsJson = False) -> None:
    """Verify an experiment's OOF score against its stored files.

    Recomputes digests, folds and scores from data, weights and predictions. Exits with 1 if a check fails.

    Example: `ichx audit 6`
    """
    with session() as project:
        project.store.experiment(number)  # report an unknown number before pandas is imported
        from ichx.evaluation.audit import audit as run_audit

        found = run_audit(project, number)
    if as_json:
        print_json({"passed": found.passed, "audit": found})
    else:
        console.print(f"experiment {number}: {found.name}{format_marks(found.marks)}", markup=False, style="bold")
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
        consequence = " Do not trust this score." if scored else ""
        info(f"{wrong} of {len(found.checks)} checks failed.{consequence}", style="red")
        raise typer.Exit(1)
    info(f"None of {len(found.checks)} checks failed.")
