"""SQLite files on network file systems, where SQLite's locks are unreliable: https://www.sqlite.org/faq.html#q5."""

import os
from typing import Final

from sqlalchemy import URL

from ichx.errors import StoreError
from ichx.mounts import network_mount
from ichx.store import database

ALLOW: Final = "ICHX_ALLOW_NETWORK_STORE"
"""Environment variable that allows to write to a SQLite store on a network file system."""


def network_file_system(url: URL) -> str | None:
    """Return the network file system of a SQLite store; None for a local disk, another database, or if unknown."""
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    return None if file is None else network_mount(file)


def refusal(url: URL) -> StoreError | None:
    """Return the error for writing to a SQLite store on a network file system; None if it may be written."""
    kind = None if os.environ.get(ALLOW) == "1" else network_file_system(url)
    if kind is None:
        return None
    return StoreError(
        f"The store {database.display_name(url)} is on a network file system ({kind}), where SQLite's locks may fail "
        "and two writers damage it. It is only read.",
        "Set ICHX_STORE, or `store` in ichx.toml, to a path on a local disk or to a PostgreSQL URL; `ichx store move` "
        f"copies the records there. {ALLOW}=1 allows to write, if only one machine uses this store.",
    )
