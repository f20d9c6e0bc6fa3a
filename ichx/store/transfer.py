"""Copying a store to another database, and moving it there together with the tie to its workspace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, text

from ichx.errors import ConflictError
from ichx.store import binding, copying, database
from ichx.store.store import Store
from ichx.store.tables import METADATA
from ichx.workspace import Workspace


@contextmanager
def open_empty(store: Store, url: str) -> Iterator[Store]:
    """Yield the store at `url`, which has no records; a relative file is in the current directory.

    Raises:
        InvalidInputError: The URL is invalid.
        ConflictError: It has records, or is `store` itself.
        StoreError: It cannot be opened.
    """
    resolved = database.resolve_url(url, Path.cwd())
    if _place(resolved) == _place(store.url):
        raise ConflictError(f"{database.display_name(resolved)} is the store itself.", "Choose another database.")
    with Store(resolved) as target:
        copying.check_empty(target._engine)
        yield target


def copy_store(store: Store, target: Store) -> dict[str, int]:
    """Copy all records of `store`, as they are at this moment, to the empty store `target`, also during runs.

    Returns:
        The number of rows by table.
    """
    with database.reading(store._engine) as old:
        return copying.copy_records(old, target._engine)


def move_store(
    store: Store, target: Store, workspace: Workspace, before: Callable[[], object] = lambda: None
) -> dict[str, int]:
    """Copy all records of `store` to the empty store `target`, to which `workspace` then belongs.

    Other processes cannot change `store` meanwhile, or after that: their changes would be lost.

    Args:
        store: The store of `workspace`.
        target: The empty store.
        workspace: The workspace.
        before: Is called when nothing else can change, before the records are copied.

    Returns:
        The number of rows by table.

    Raises:
        ConflictError: A run is active.
    """
    with database.writing(store._engine) as old:  # of a read-only store this is a copy
        binding.count_change(old)  # other processes wait here for the end of the move
        _lock_tables(old)
        copying.check_idle(old)
        before()
        rows = copying.copy_records(old, target._engine)
        binding.mark_moved(old, target.name)
        target.adopt(workspace)
    return rows


def _lock_tables(connection: Connection) -> None:
    """Let nobody else write on PostgreSQL; on SQLite a writer is alone from its start."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in METADATA.sorted_tables)
        connection.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))


def _place(url: URL) -> object:
    """Return what two URLs of the same database have in common."""
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    if file is not None:
        return file.resolve()
    return (url.get_backend_name(), url.host, url.port, url.database, url.query.get("host"), url.query.get("port"))
