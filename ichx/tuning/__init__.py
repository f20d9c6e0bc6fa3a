"""Tuning: Optuna searches better values for a recipe. A trial is an experiment that runs as a job (`ichx.jobs`).

Importing the functions of this module imports no Optuna.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ichx.workspace import Workspace


def studies_url(workspace: "Workspace") -> "URL":
    """Return where Optuna's studies are: in the store's database on PostgreSQL, else in the file `database_path`."""
    from sqlalchemy import URL

    from ichx.store import database

    url = database.resolve_url(workspace.store_url, workspace.root)
    return url if database.is_postgres(url) else URL.create("sqlite", database=str(database_path(workspace)))


def database_path(workspace: "Workspace") -> Path:
    """Return the SQLite file of Optuna's studies: that of a copied store, next to it, or else that of the workspace."""
    from ichx.store import database

    url = database.resolve_url(workspace.store_url, workspace.root)
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    beside = None if file is None else studies_beside(file)
    return beside if beside is not None and beside.is_file() else workspace.root / "db" / "tuning.db"


def studies_beside(store: Path) -> Path:
    """Return the file of Optuna's studies that belongs to the copy `store` of a store."""
    return store.with_name(f"{store.stem}.tuning.db")


def may_have_studies(workspace: "Workspace") -> bool:
    """Return whether there may be studies; False only if there is neither a file nor a server."""
    from ichx.store import database

    return database.is_postgres(studies_url(workspace)) or database_path(workspace).is_file()
