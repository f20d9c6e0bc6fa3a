"""`ichx audit`: verify scores against stored files."""

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from ichx.cli.output import console, info, print_json, progress
from ichx.cli.parameters import AsJson, EnsembleNumber, OptionalNumber, parse_subject
from ichx.cli.session import session
from ichx.formatting import format_marks

if TYPE_CHECKING:
    from ichx.evaluation.audit import Audit
    from ichx.evaluation.ensemble_audit import EnsembleAudit


def audit(number: OptionalNumber = None, ensemble: EnsembleNumber = None, as_json: AsJson = False) -> None:
    """Verify an OOF score against the stored files.

    Recomputes digests, folds and scores from data, weights and predictions; of an ensemble also the blend, the nested
    score and the submissions. Exits with 1 if a check fails.

    Example: `ichx audit 6`

    Example: `ichx audit --ensemble 3`
    """
    subject = parse_subject(number, ensemble)
    found: Audit | EnsembleAudit
    with session() as project:
        # report an unknown number before pandas is imported
        subject.require(project)
        if subject.ensemble:
            from ichx.evaluation.ensemble_audit import audit_ensemble

            with progress("nested folds") as update:
                found = audit_ensemble(project, subject.number, update)
        else:
            from ichx.evaluation.audit import audit as run_audit

            found = run_audit(project, subject.number)
    if as_json:
        print_json({"passed": found.passed, "audit": found})
    else:
        console.print(f"{subject}: {found.name}{format_marks(found.marks)}", markup=False, style="bold")
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
