"""The connection of a `Store` to its database: opening, copies of files that cannot be written, transactions."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection

from ichx.errors import StoreError
from ichx.store import binding, database, migrate, network_files
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory


CHECK_SECONDS = 1.0
"""Time between two checks of a store that is open for long."""

P = ParamSpec("P")
T = TypeVar("T")
Query = Callable[Concatenate[Connection, P], T]


class StoreConnection:
    """A connection to the database at a SQLAlchemy URL, and how queries are executed; see `ichx.store.store`."""

    def __init__(self, url: str | URL, *, patience: float | None = None) -> None:
        """Open the store at `url`, and create or upgrade its tables if needed; `patience`: see `database.connect`."""
        self._workspace: Workspace | None = None
        self.newly_tied = False
        self.note: Callable[[str], object] = lambda message: None
        """Receives a line if the database is away and the request is repeated."""
        self.changed: set[int] = set()
        """Experiments whose name, tags, notes or place were changed with this object."""
        self._url = database.parse_url(url)
        self._refusal = network_files.refusal(self._url)
        file = database.sqlite_file(self._url)
        if self._refusal is not None and file is not None and not file.exists():
            raise self._refusal
        self._patience = patience
        self._engine = database.connect(self._url, patience=patience)
        self._copy: TemporaryDirectory[str] | None = None
        self._recheck = -math.inf
        self._seen: tuple[object, ...] | None = None
        self.name = database.display_name(self._url)
        """The name in messages: the file, or the URL without the password."""
        try:
            if self._refusal is not None or migrate.needs_copy(self._engine):
                self._use_copy()
            migrate.prepare(self._engine)
        except BaseException:
            self.close()
            raise
        self._seen = self._seen or self._file_state()

    def _use_copy(self) -> None:
        """Read a store that cannot be written from a temporary copy, which can be upgraded."""
        from tempfile import TemporaryDirectory

        from ichx.store import maintenance

        self._copy = TemporaryDirectory(prefix="ichx-store-")
        target = Path(self._copy.name) / "ichx.db"
        self._seen = self._file_state()
        began = time.monotonic()
        maintenance.back_up(self._engine, target)
        self._engine.dispose()
        self._engine = database.connect(str(target), patience=self._patience)
        self._recheck = time.monotonic() + max(CHECK_SECONDS, 10 * (time.monotonic() - began))

    def _file_state(self) -> tuple[object, ...] | None:
        """Return what distinguishes the file of a SQLite store from another one, or from a later state of a copy."""
        file = database.sqlite_file(self._url) if database.is_sqlite(self._url) else None
        if file is None:
            return None
        states: list[object] = []
        for path in (file, Path(f"{file}-wal")) if self._copy is not None else (file,):
            try:
                found = path.stat()
            except OSError:
                states.append(None)
                continue
            states += [found.st_dev, found.st_ino]
            states += [found.st_size, found.st_mtime_ns] if self._copy is not None else []
        return tuple(states)

    def is_current(self) -> bool:
        """Return whether this object still reads the database at its URL.

        It does not if the file was removed or replaced, if a newer ichx has upgraded the tables, or if this object
        reads a copy of a file that has changed. Only the first is checked more often than once in `CHECK_SECONDS`.

        Raises:
            StoreError: The database cannot be read.
        """
        if self._copy is None and self._file_state() != self._seen:
            return False
        if time.monotonic() < self._recheck:
            return True
        if self._copy is not None:
            return self._file_state() == self._seen
        if not migrate.is_prepared(self._engine):
            return False
        self._recheck = time.monotonic() + CHECK_SECONDS
        return True

    @property
    def is_writable(self) -> bool:
        """Whether this process may write to the store."""
        file = database.sqlite_file(self._url) if database.is_sqlite(self._url) else None
        return self._copy is None and (file is None or os.access(file, os.W_OK))

    @property
    def url(self) -> URL:
        """The URL, with the password if it has one: never show it."""
        return self._url

    def tie(self, workspace: Workspace) -> None:
        """Check that the store belongs to `workspace`, which then remembers its changes.

        Raises:
            ConflictError: It does not, or it is an older copy.
        """
        if self._copy is not None:
            return  # nothing that is written stays
        tied = binding.tie(self._engine, workspace)
        self.newly_tied = tied == "newly tied"
        if tied:
            self._workspace = workspace

    def adopt(self, workspace: Workspace) -> binding.StoreState:
        """Tie the store to `workspace`, whatever both were tied to before; return its earlier state."""
        self.check_writable()
        before = binding.adopt(self._engine, workspace)
        self._workspace = workspace
        return before

    def state(self) -> binding.StoreState:
        """Return what the store knows of its workspace, and its counters."""
        return self._read(binding.read_state)

    def network_file_system(self) -> str | None:
        """Return the network file system of the store's file; None for a local disk, or if unknown."""
        return network_files.network_file_system(self._url)

    def check_writable(self) -> None:
        """Raise `StoreError` if the store can only be read; call it before long work whose result is recorded."""
        if self._copy is not None:
            raise self._refusal or StoreError(
                f"The store {self.name} is read-only.",
                "Make the file and its folder writable, or use another store with ICHX_STORE.",
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return database.read(self._engine, lambda connection: query(connection, *args, **kwargs), self.note)

    def _write(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.check_writable()
        return database.write(self._engine, lambda connection: query(connection, *args, **kwargs), self.note)

    def _record(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query after whose change files in the workspace belong to records of this store."""
        return self._count(lambda connection: query(connection, *args, **kwargs))

    def _count(self, query: Callable[[Connection], T], *, repeatable: bool = True) -> T:
        """Run `query` and count it as a change; see `_record`."""
        self.check_writable()

        def change(connection: Connection) -> tuple[tuple[str, int] | None, T]:
            # First, because it locks the counter: on a server, too, one change follows the other.
            return binding.count_change(connection), query(connection)

        counted, result = database.write(self._engine, change, self.note, repeatable=repeatable)
        if self._workspace is not None and counted is not None:
            binding.save_changes(self._workspace, self._engine, *counted)
        return result

    def _is_used(self, kind: str, number: int) -> bool:
        return self._workspace is not None and self._workspace.is_used(kind, number)
