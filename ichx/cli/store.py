"""`ichx store`: look after the store, and ask it anything."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, print_json
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError

app = typer.Typer(help="The store: check it, copy it, ask it.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Check the store: its file, its version, that every recorded prediction is there, and that weights are whole.

    Exits 1 where something is wrong.

    Example: `ichx store check`
    """
    from ichx.evaluation.weight_files import check_weights
    from ichx.experiments.gc import check_files

    with session() as project:
        found = [*project.store.check_file(), check_files(project), check_weights(project)]
    if as_json:
        print_json(found)
    else:
        for checked in found:
            console.print(f"{'ok   ' if not checked.problems else 'WRONG'} {checked.what}", markup=False)
            for problem in checked.problems:
                console.print(f"      {problem}", markup=False)
    if any(checked.problems for checked in found):
        raise typer.Exit(1)


@app.command("backup")
def backup(
    file: Annotated[Path | None, typer.Argument(help="Where to; default: db/backup-DATE.db in the workspace.")] = None,
) -> None:
    """Write a whole copy of the store, and of the studies of tuning, also while runs write to them.

    Example: `ichx store backup /mnt/backup/ichx.db`
    """
    from ichx.store.maintenance import copy_database
    from ichx.text import format_bytes
    from ichx.tuning import database_path

    with session() as project:
        target = file or project.workspace.root / "db" / f"backup-{datetime.now():%Y-%m-%d-%H%M%S}.db"
        size = project.store.back_up(target)
        studies = database_path(project.workspace)
        beside = target.with_name(f"{target.stem}.{studies.name}")
        tuned = copy_database(studies, beside) if studies.is_file() else None
    info(f"copied the store to {target}, {format_bytes(size)}; ICHX_STORE=sqlite:///{target.resolve()} opens it")
    if tuned is not None:
        info(f"copied the Optuna studies to {beside}, {format_bytes(tuned)}; its place is db/{studies.name}")


@app.command("upgrade")
def upgrade() -> None:
    """Bring the store to this ichx's tables; every command does so when it needs to.

    Example: `ichx store upgrade`
    """
    from ichx.store.migrate import HEAD

    with session():
        info(f"the store has version {HEAD}, this ichx's newest")


@app.command("sql")
def sql(
    question: Annotated[str, typer.Argument(help="One SELECT.")],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
) -> None:
    """Ask the store anything; it is opened to be read only. `ichx store schema` lists tables and columns.

    Example: `ichx store sql "select plugin, min(score) from experiment group by plugin"`
    """
    with session() as project:
        answer = project.store.ask(question)
    if as_json:
        print_json([dict(zip(answer.columns, row, strict=True)) for row in answer.rows])
    elif as_csv:
        import csv
        import sys

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        print_table("", answer.columns, answer.rows, caption=f"{len(answer.rows):,} rows")


@app.command("schema")
def schema(
    name: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="Only this table.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the store's tables and what their columns mean.

    Example: `ichx store schema experiment`
    """
    from ichx.store.tables import METADATA

    tables = {t.name: t for t in METADATA.sorted_tables}
    if name is not None and name not in tables:
        raise IchxError(f"the store has no table {name!r}", f"its tables are {', '.join(tables)}")
    chosen = [tables[name]] if name else list(tables.values())
    if as_json:
        print_json({t.name: {column.name: column.doc for column in t.columns} for t in chosen})
        return
    for t in chosen:
        rows = [(column.name, str(column.type), format_value(column.doc)) for column in t.columns]
        print_table(f"{t.name}: {t.info['doc']}", ("column", "type", "what it is"), rows)
