"""The tie between a store and its workspace. Both have the same id, and the workspace knows how far the store was.

A store with another id belongs to another workspace. A store with fewer changes than the workspace has seen is an older
copy, e.g. a backup. In either store the next experiment would get a number whose folder contains the files of another
experiment. Stores and workspaces that have no id yet are tied at first use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, Engine, delete, exc, insert, select, update

from ichx.errors import ConflictError, StorageError, StoreError
from ichx.store import database
from ichx.store.annotations import get_setting, set_setting
from ichx.store.tables import counter
from ichx.workspace import StoreRecord, Workspace

_SETTING: Final = "workspace"
_CHANGES: Final = "change"
"""Kind of the counter of changes."""
_MOVED: Final = "moved"
"""Key of the setting: the store to which the records have been moved."""


@dataclass(frozen=True)
class StoreState:
    """What a store knows of its workspace, and how far it is."""

    id: str | None
    """None before the first use with a workspace."""
    since: datetime | None
    """When it was tied to the workspace."""
    root: str | None
    """Folder of the workspace."""
    changes: int
    numbers: dict[str, int]
    """Last number of each kind."""


def read_state(connection: Connection) -> StoreState:
    """Return the state of the store."""
    numbers = {row.kind: row.last for row in connection.execute(select(counter.c.kind, counter.c.last))}
    known: dict[str, Any] = get_setting(connection, _SETTING) or {}
    since = known.get("since")
    return StoreState(
        id=known.get("id"),
        since=None if since is None else datetime.fromisoformat(since),
        root=known.get("root"),
        changes=numbers.pop(_CHANGES, 0),
        numbers=numbers,
    )


def count_change(connection: Connection) -> tuple[str, int] | None:
    """Count a change of the store; return its id and the number of changes, or None if the store has no id.

    Other changes wait until the transaction ends.

    Raises:
        ConflictError: The records have been moved to another store since this one was opened.
    """
    of_kind = counter.c.kind == _CHANGES
    if connection.execute(update(counter).where(of_kind).values(last=counter.c.last + 1)).rowcount == 0:
        database.lock_changes(connection)
        return None
    changes = int(connection.execute(select(counter.c.last).where(of_kind)).scalar_one())
    known: dict[str, Any] = get_setting(connection, _SETTING) or {}
    if _MOVED in known:
        raise ConflictError(
            f"The records of this store have been moved to {known[_MOVED]}.",
            "Repeat the command with that store (ICHX_STORE, or `store` in ichx.toml).",
        )
    return str(known.get("id")), changes


def mark_moved(connection: Connection, name: str) -> None:
    """Let no process that has opened the store change it any more: its records have been moved to the store `name`."""
    known: dict[str, Any] | None = get_setting(connection, _SETTING)
    if known is not None:
        set_setting(connection, _SETTING, known | {_MOVED: name})


def tie(engine: Engine, workspace: Workspace) -> Literal["tied", "newly tied"] | None:
    """Check that the store belongs to `workspace`; tie them if neither has been used before.

    Returns:
        Whether they are tied, and were before; None if one of them is read-only and has no id yet.

    Raises:
        ConflictError: The store belongs to another workspace, is an older copy, or does not know the experiments.
    """
    record = workspace.store_record()
    with database.reading(engine) as connection:
        state = read_state(connection)
    new = state.id is None
    if new:
        _check_new(database.display_name(engine.url), workspace, record, state.numbers)
        record = _tie_new(engine, workspace, record)
        if record is None:
            return None
        with database.reading(engine) as connection:  # another process may have been faster
            state = read_state(connection)
    _check_known(engine, workspace, record, state)
    if record is not None and record.changes < state.changes:
        save_changes(workspace, engine, record.id, state.changes)
    return "newly tied" if new else "tied"


def save_changes(workspace: Workspace, engine: Engine, identity: str, changes: int) -> None:
    """Let `workspace` remember that its store has this number of changes, unless it has seen more.

    A store with another id is ignored: `workspace` has been tied to another one since this process opened it.
    """
    record = workspace.store_record()
    if record is None or record.id != identity or record.changes >= changes:
        return
    try:
        workspace.save_store_record(StoreRecord(record.id, changes, database.display_name(engine.url)))
    except StorageError:
        pass  # the store has the change; a later command saves the number


def adopt(engine: Engine, workspace: Workspace) -> StoreState:
    """Tie the store to `workspace` under a new id, whatever both were tied to before; return its earlier state."""
    identity = _new_id()
    with database.writing(engine) as connection:
        before = read_state(connection)
        _write_id(connection, workspace, identity, max(1, before.changes))
    workspace.save_store_record(StoreRecord(identity, max(1, before.changes), database.display_name(engine.url)))
    return before


def check_missing(url: URL, workspace: Workspace) -> None:
    """Raise `ConflictError`, before a missing SQLite file is created, if `workspace` has used another store."""
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    if file is not None and not file.exists():
        _check_new(database.display_name(url), workspace, workspace.store_record(), {})


def _check_new(name: str, workspace: Workspace, record: StoreRecord | None, numbers: Mapping[str, int]) -> None:
    """Raise `ConflictError` if the store `name`, which has no id, cannot be the one that `workspace` has used."""
    if record is not None and record.changes > 1:  # the first one is the tie itself
        raise ConflictError(
            f"The store {name} is new or an old copy: this workspace has made {record.changes:,} changes in "
            f"{_other(record, name)}.",
            _remedy(record, name),
        )
    last = numbers.get("experiment", 0)
    unknown = sorted(number for number in workspace.used_numbers("experiment") if number > last)
    if unknown:
        listed = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise ConflictError(
            f"The last experiment of the store {name} is {last}, but {workspace.experiments_dir} has {listed}.",
            _remedy(record, name),
        )


def _check_known(engine: Engine, workspace: Workspace, record: StoreRecord | None, state: StoreState) -> None:
    """Raise `ConflictError` if a store with an id is not that of `workspace`, or is older than it was."""
    name = database.display_name(engine.url)
    if record is None or record.id != state.id:
        moved = state.root == str(workspace.root)
        why = "another one took its place" if moved else f"it belongs to {state.root}"
        problem = f"The store {name} is not the store of {workspace.root}: {why}."
        raise ConflictError(problem, _remedy(record, name, rebuild=False))
    if state.changes < record.changes:
        raise ConflictError(
            f"The store {name} is older than its workspace: it has {state.changes:,} changes, but there were "
            f"{record.changes:,} in {_other(record, name)}.",
            _remedy(record, name),
        )


def _other(record: StoreRecord, name: str) -> str:
    return "it" if record.store == name else record.store


def _remedy(record: StoreRecord | None, name: str, *, rebuild: bool = True) -> str:
    ways = []
    if record is None or record.store != name:
        own = "the store of this workspace" if record is None else f"the store {record.store}"
        ways = [
            f"Use {own} again (ICHX_STORE, or `store` in ichx.toml).",
            "`ichx store move URL`, run with that store, copies its records to a new one.",
        ]
    ways.append("`ichx store adopt` accepts this store, e.g. a backup that you have restored.")
    if rebuild:
        ways.append("`ichx store rebuild` accepts a new or older store and registers the experiments in folders.")
    return "\n".join(ways)


def _tie_new(engine: Engine, workspace: Workspace, record: StoreRecord | None) -> StoreRecord | None:
    """Give both sides the same id and return the workspace's record; None if one of them cannot be written."""
    try:
        if record is None:
            draft = StoreRecord(_new_id(), 0, database.display_name(engine.url))
            record = workspace.create_store_record(draft)
        with database.writing(engine) as connection:
            if get_setting(connection, _SETTING) is None:
                _write_id(connection, workspace, record.id, 1)
    except (StorageError, StoreError):
        return None
    except exc.IntegrityError:
        pass  # another process was faster
    return record


def _write_id(connection: Connection, workspace: Workspace, identity: str, changes: int) -> None:
    value = {"id": identity, "root": str(workspace.root), "since": datetime.now(UTC).isoformat()}
    set_setting(connection, _SETTING, value)
    connection.execute(delete(counter).where(counter.c.kind == _CHANGES))
    connection.execute(insert(counter).values(kind=_CHANGES, last=changes))


def _new_id() -> str:
    import secrets  # only here: importing it takes longer than checking the tie

    return secrets.token_hex(16)
