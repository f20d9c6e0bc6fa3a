"""Copying Optuna's studies between SQLite and PostgreSQL, with all trials and their numbers, verified."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import URL, Table

from ichx.errors import ConflictError, NotFoundError
from ichx.store import database
from ichx.store.copying import copy_tables
from ichx.store.maintenance import new_sqlite_file
from ichx.tuning import studies_beside, studies_url
from ichx.tuning.connection import connect
from ichx.tuning.server_storage import has_tables

if TYPE_CHECKING:
    from ichx.workspace import Workspace

_VERSION_TABLES: Final = ("version_info", "alembic_version")
"""Tables that a new storage fills itself."""


def copy_studies(workspace: "Workspace", store: URL) -> tuple[int, URL] | None:
    """Copy the studies of `workspace` to where they belong for the new `store`.

    Returns:
        Their number and place; None if there are none.

    Raises:
        ConflictError: There are studies already.
        StoreError: A database cannot be used, or the copy differs.
    """
    file = None if database.is_postgres(store) else database.sqlite_file(store)
    target = store if file is None else URL.create("sqlite", database=str(studies_beside(file)))
    if file is not None:
        check_no_file(Path(target.database or ""))
    try:
        return _copy(studies_url(workspace), target), target
    except NotFoundError:
        return None


def check_no_file(file: Path) -> None:
    """Raise `ConflictError` if the file for copied studies exists."""
    if file.exists():
        raise ConflictError(f"{file} already exists.", "Move it away, or choose another name for the store.")


def adopt_file(file: Path, server: URL) -> None:
    """Copy the studies in `file` to a server that has none yet: older versions always used the file."""
    if not file.is_file():
        return
    engine = database.connect(server)
    try:
        known = has_tables(engine)
    finally:
        engine.dispose()
    if not known:
        _copy(URL.create("sqlite", database=str(file)), server)


def _copy(source: URL, target: URL) -> int:
    with _open(source, read_only=True) as old:
        file = database.sqlite_file(target) if database.is_sqlite(target) else None
        if file is not None:
            with new_sqlite_file(file) as draft:
                return _copy_to(old, URL.create("sqlite", database=str(draft)))
        return _copy_to(old, target)


def _copy_to(old: RDBStorage, target: URL) -> int:
    with _open(target, read_only=False) as new, database.reading(old.engine) as connection:
        return copy_tables(connection, new.engine, _tables())["studies"]


def _tables() -> list[Table]:
    return [table for table in BaseModel.metadata.sorted_tables if table.name not in _VERSION_TABLES]


@contextmanager
def _open(url: URL, *, read_only: bool) -> Iterator[RDBStorage]:
    storage = connect(url, read_only=read_only)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
