"""`ichx store`: check, back up, copy, move, rebuild and query the store."""

import contextlib
import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, print_csv, print_json, warn
from ichx.cli.parameters import AsCsv, AsJson, duration_seconds, gigabytes
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import CorruptFileError, IchxError, NotFoundError
from ichx.formatting import format_value
from ichx.text import format_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL

    from ichx.workspace import Workspace

app = typer.Typer(help="Store: check, back up, copy, move and query it.", no_args_is_help=True)


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Check the database, recorded predictions and weights.

    Exits with 1 if there is a problem.

    Example: `ichx store check`
    """
    from ichx.evaluation.weight_files import check_weights
    from ichx.experiments.gc import check_files
    from ichx.store.maintenance import CheckResult

    with session(tied=False) as project:
        found = project.store.check_file()
        for what, check_project in (
            ("files of recorded predictions", check_files),
            ("weights of finished folds", check_weights),
        ):
            try:
                found.append(check_project(project))
            except IchxError as error:  # of a store with problems
                found.append(CheckResult(what, (error.problem,)))
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
    file: Annotated[
        Path | None, typer.Argument(help="Output file; default: db/backup-DATE.db in the workspace.")
    ] = None,
) -> None:
    """Copy the store and the Optuna studies, even during runs.

    Example: `ichx store backup /mnt/backup/ichx.db`
    """
    from ichx.text import format_bytes

    with session(tied=False) as project:
        target = file or project.workspace.root / "db" / f"backup-{datetime.now():%Y-%m-%d-%H%M%S}.db"
        with contextlib.ExitStack() as undo:  # the store comes last: a killed backup must not look complete
            studies = _back_up_studies(project.workspace, target.resolve())
            if studies is not None:
                undo.callback(studies.unlink)
            size = project.store.back_up(target)
            undo.pop_all()
    info(f"Copied the store to {target}, {format_bytes(size)}.")
    info(f"Check it: `ICHX_STORE={shlex.quote(str(target.resolve()))} ichx store check`")
    if studies is not None:
        info(
            f"Copied the Optuna studies to {target.with_name(studies.name)}, "
            f"{format_bytes(studies.stat().st_size)}. Restore as db/tuning.db."
        )


def _back_up_studies(workspace: "Workspace", target: Path) -> Path | None:
    """Copy the Optuna studies to a file that belongs to the backup `target`; return it, or None if there are none."""
    from ichx.store.database import is_sqlite, resolve_url
    from ichx.store.maintenance import copy_database
    from ichx.tuning import database_path, studies_beside, studies_url

    file = studies_beside(target)
    if not is_sqlite(studies_url(workspace)):
        from ichx.tuning.study_transfer import copy_studies

        return None if copy_studies(workspace, resolve_url(str(target), workspace.root)) is None else file
    if not database_path(workspace).is_file():
        return None
    copy_database(database_path(workspace), file)
    return file


@app.command("adopt")
def adopt(as_json: AsJson = False) -> None:
    """Accept this store as the store of this workspace.

    Use it after restoring a backup, or to continue with the store of another workspace. No record changes.

    Example: `ichx store adopt`
    """
    from ichx.experiments.rebuild import adopt_store

    with session(tied=False) as project:
        known = None
        with contextlib.suppress(CorruptFileError):  # it is written again
            known = project.workspace.store_record()
        before = adopt_store(project)
        experiments = project.store.listing(limit=1)[1]
        if as_json:
            print_json({"store": project.store.name, "workspace": project.workspace.root, "experiments": experiments})
        info(f"The store {project.store.name} belongs to {project.workspace.root} from now on.")
        if before.id is not None and (known is None or before.id != known.id):
            info(f"It belonged to {before.root}, which cannot use it any more.")
        info(f"It has {format_count(experiments, 'experiment')}. `ichx store rebuild` registers what it lacks.")


@app.command("copy")
def copy(
    target: Annotated[str, typer.Argument(metavar="URL", help="Empty database: a path or a SQLAlchemy URL.")],
    as_json: AsJson = False,
) -> None:
    """Copy the store to another database.

    All records and Optuna studies are copied and verified. The workspace keeps its store.
    `ichx store move` also lets the workspace use the new one.

    Example: `ichx store copy postgresql+psycopg://me@server/ichx`
    """
    from ichx.store.transfer import copy_store, open_empty
    from ichx.tuning.study_transfer import copy_studies

    with session(tied=False) as project, open_empty(project.store, target) as new:
        studies = copy_studies(project.workspace, new.url)
        rows = copy_store(project.store, new)
        _report_copy(project.store.name, new.name, rows, studies, as_json=as_json)


@app.command("move")
def move(
    target: Annotated[str, typer.Argument(metavar="URL", help="Empty database: a path or a SQLAlchemy URL.")],
    as_json: AsJson = False,
) -> None:
    """Copy the store to another database and use that one.

    All records and Optuna studies are copied and verified. The old store stays as it is, but
    the workspace does not open it any more.

    Example: `ichx store move postgresql+psycopg://me@server/ichx`
    """
    from ichx.store.transfer import move_store, open_empty
    from ichx.tuning.study_transfer import copy_studies

    with session() as project, open_empty(project.store, target) as new:
        found = []
        rows = move_store(
            project.store,
            new,
            project.workspace,
            lambda: found.append(copy_studies(project.workspace, new.url)),
        )
        _report_copy(project.store.name, new.name, rows, found[0], as_json=as_json)
    info("Set `store` in ichx.toml, or ICHX_STORE, to the new store.")


def _report_copy(
    old: str, new: str, rows: "Mapping[str, int]", studies: "tuple[int, URL] | None", *, as_json: bool
) -> None:
    from ichx.store.database import display_name, is_sqlite

    if as_json:
        print_json({"store": new, "rows": rows, "studies": 0 if studies is None else studies[0]})
    info(f"Copied and verified {sum(rows.values()):,} rows in {len(rows)} tables from {old} to {new}.")
    if studies is not None:
        place = f" to {display_name(studies[1])}" if is_sqlite(studies[1]) else ""
        info(f"Copied and verified {format_count(studies[0], 'Optuna study', 'Optuna studies')}{place}.")


@app.command("rebuild")
def rebuild(as_json: AsJson = False) -> None:
    """Register datasets, experiments and ensembles from their folders.

    Experiments that have never run, Optuna studies, names of ensembles and counted evaluations are in no folder.

    Example: `ichx store rebuild`
    """
    from ichx.experiments.rebuild import adopt_own_store, rebuild_store

    with session(tied=False) as project:
        adopted = adopt_own_store(project)
        found = rebuild_store(project)
        name = project.store.name
    if as_json:
        print_json(found)
    else:
        if adopted:
            info(f"The store {name} belongs to this workspace from now on.")
        if found.versions:
            info(f"Registered {', '.join(found.versions)}.")
        if found.experiments:
            numbers = ", ".join(map(str, found.experiments))
            info(f"Registered {format_count(len(found.experiments), 'experiment')}: {numbers}.")
        if found.ensembles:
            numbers = ", ".join(map(str, found.ensembles))
            info(f"Registered {format_count(len(found.ensembles), 'ensemble')}: {numbers}.")
        if found.reviews:
            info(f"Registered {format_count(found.reviews, 'change')} of reviews of slices.")
        if not (found.versions or found.experiments or found.ensembles or found.reviews):
            info("The store knows every folder that has a record.")
        for problem in found.problems:
            warn(problem)
    if found.problems:
        raise typer.Exit(1)


@app.command("upgrade")
def upgrade() -> None:
    """Migrate the store to the newest version.

    Every command does so when needed.

    Example: `ichx store upgrade`
    """
    from ichx.store.migrate import HEAD

    with session():
        info(f"The store has version {HEAD}, the newest.")


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(help="SELECT statement.")],
    timeout: Annotated[str, typer.Option("--timeout", help="Maximum time, e.g. 10m.")] = "60s",
    memory: Annotated[str, typer.Option("--memory", help="Maximum memory, e.g. 4GB.")] = "1GB",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Query the store with SQL, read-only.

    `ichx store schema` lists the tables and columns.

    Example: `ichx store sql "select plugin, min(score) from experiment group by plugin"`
    """
    from ichx.store.maintenance import QueryLimits

    limits = QueryLimits(duration_seconds(timeout, "--timeout"), int(1e9 * gigabytes(memory, "--memory")))
    with session(tied=False) as project:
        result = project.store.query(query, limits)
    if as_json:
        print_json([dict(zip(result.columns, row, strict=True)) for row in result.rows])
    elif as_csv:
        print_csv(result.columns, result.rows)
    else:
        print_table("", result.columns, result.rows, caption=f"{len(result.rows):,} rows")


@app.command("schema")
def schema(
    name: Annotated[str | None, typer.Argument(metavar="TABLE", help="Table; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List tables and columns of the store.

    Example: `ichx store schema experiment`
    """
    from ichx.store.tables import METADATA

    tables = {t.name: t for t in METADATA.sorted_tables}
    if name is not None and name not in tables:
        raise NotFoundError.named("table", name, tables, f"Tables: {', '.join(tables)}.")
    chosen = [tables[name]] if name else list(tables.values())
    if as_json:
        print_json({t.name: {column.name: column.doc for column in t.columns} for t in chosen})
        return
    for t in chosen:
        rows = [(column.name, str(column.type), format_value(column.doc)) for column in t.columns]
        print_table(f"{t.name}: {t.info['doc']}", ("column", "type", "description"), rows)
