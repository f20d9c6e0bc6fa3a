"""Optuna's storage in the PostgreSQL database of the store: requests are repeated while the server is away.

Optuna's tables are next to those of the store; none of their names is the same.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from optuna.storages import RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, exc, inspect

from ichx.errors import NotFoundError, StoreError
from ichx.store import database, postgres

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

HEARTBEAT_SECONDS = 60
"""Interval of the heartbeats of trials on a server."""
OUTERMOST: Final = (
    "create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs",
    "get_all_studies", "_create_new_trial", "set_trial_param", "_set_trial_param", "set_trial_state_values",
    "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr", "get_trial", "get_all_trials",
    "_get_trials", "get_trial_id_from_study_id_trial_number", "get_n_trials", "record_heartbeat",
)  # fmt: skip
"""Methods of a storage that are one transaction each."""


class ServerStorage(RDBStorage):
    """Optuna's storage on a server. A change takes effect once, even if the answer to its commit is lost."""

    def __init__(self, url: URL, note: Callable[[str], object], *, create: bool) -> None:
        self._note = note
        self._transaction: int | None = None
        super().__init__(
            url.render_as_string(hide_password=False),
            engine_kwargs={"pool_size": 1, "pool_pre_ping": True, "connect_args": _connect_args(url)},
            heartbeat_interval=HEARTBEAT_SECONDS,
            skip_table_creation=not create,
        )
        event.listen(self.engine, "handle_error", _raise_user_error)
        event.listen(self.engine, "commit", self._before_commit)

    def _before_commit(self, connection: Connection) -> None:
        self._transaction = postgres.transaction_id(connection)

    def _repeat(self, name: str, *args: Any, **kwargs: Any) -> Any:
        absence = postgres.Absence(self._note)
        while True:
            self._transaction = None
            try:
                return getattr(RDBStorage, name)(self, *args, **kwargs)
            except StoreError as error:
                transaction = self._transaction
                absence.wait(error)
            if transaction is not None and database.is_committed(self.engine, transaction, absence):
                return self._answer(name, *args, **kwargs)

    def _answer(self, name: str, *args: Any, study_name: str = "", **_others: Any) -> Any:
        """Return the result of a change whose commit succeeded."""
        if name == "create_new_study":
            return self.get_study_id_from_name(study_name or args[1])
        if name == "_create_new_trial":
            return self.get_all_trials(args[0])[-1]  # this process has locked the study
        return True if name == "set_trial_state_values" else None


def _repeated(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(RDBStorage, name))
    def method(self: ServerStorage, *args: Any, **kwargs: Any) -> Any:
        return self._repeat(name, *args, **kwargs)

    return method


for _name in OUTERMOST:
    if hasattr(RDBStorage, _name):  # some are private, and may be missing in another version of Optuna
        setattr(ServerStorage, _name, _repeated(_name))


def connect_server(url: URL, note: Callable[[str], object], *, create: bool) -> ServerStorage:
    """Return the storage at `url`.

    Raises:
        NotFoundError: It does not exist, and should not be created.
        StoreError: The server cannot be used.
    """
    engine = database.connect(url)
    try:
        if not has_tables(engine):
            if not create:
                raise NotFoundError(f"There are no studies in {database.display_name(url)}.", "`ichx tune` starts one.")
            with database.writing(engine) as connection:
                database.lock_changes(connection)  # other processes may create them at the same time
                BaseModel.metadata.create_all(connection)
    finally:
        engine.dispose()
    with database.translate_errors(url):
        return ServerStorage(url, note, create=False)


def has_tables(engine: Engine) -> bool:
    """Return whether a database has Optuna's tables."""
    with database.reading(engine) as connection:
        return inspect(connection).has_table("studies")


def _connect_args(url: URL) -> dict[str, Any]:
    return postgres.connect_options(url) if postgres.uses_libpq(url) else {}


def _raise_user_error(context: ExceptionContext) -> None:
    """Raise `StoreError` where Optuna would hide the cause, or repeat a change whose commit may have succeeded."""
    error, engine = context.sqlalchemy_exception, context.engine
    if isinstance(error, exc.DBAPIError) and engine is not None:
        found = postgres.as_user_error(database.display_name(engine.url), error)
        if found is not None:
            if context.is_disconnect:
                error.connection_invalidated = True
            raise found from error


def send_heartbeat(study: "Study", trial: "Trial") -> None:
    """Record that a trial is running, for other programs that read the studies; only on a server."""
    storage = study._storage
    if is_heartbeat_enabled(storage):
        cast("BaseHeartbeat", storage).record_heartbeat(trial._trial_id)
