"""SQLite files on network file systems, where SQLite's locks are unreliable: https://www.sqlite.org/faq.html#q5."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import URL

from ichx.errors import StoreError
from ichx.store import database

ALLOW: Final = "ICHX_ALLOW_NETWORK_STORE"
"""Environment variable that allows to write to a SQLite store on a network file system."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse",
        "fuse.davfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mfs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4",
        "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs", "wekafs",
    }
)  # fmt: skip

MOUNTS = Path("/proc/self/mountinfo")


def network_file_system(url: URL) -> str | None:
    """Return the network file system of a SQLite store; None for a local disk, another database, or if unknown."""
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    if file is None:
        return None
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None  # not Linux
    return network_mount(file.resolve(), lines)


def network_mount(file: Path, mounts: Sequence[str]) -> str | None:
    """Return the network file system of `file` according to lines of mountinfo(5); None for a local one."""
    longest, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = os.fsdecode(os.fsencode(left.split()[4]).decode("unicode_escape").encode("latin-1"))
        if file.is_relative_to(point) and len(point) >= len(longest):
            longest, kind = point, right.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


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
