"""Properties of the file system of a path, from the mounts of this process: network, locks. Linux only."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse",
        "fuse.davfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mfs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4",
        "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs", "wekafs",
    }
)  # fmt: skip

LOCAL_LOCKS: Final = frozenset({"localflock", "local_lock=all", "local_lock=flock", "nolock"})
"""Mount options of Lustre and NFS with which locks are not shared by machines."""

MOUNTS = Path("/proc/self/mountinfo")


def network_mount(path: Path) -> str | None:
    """Return the network file system of `path`; None for a local one, or if unknown."""
    return find_network_mount(_resolved(path), _mounts())


def find_network_mount(path: Path, mounts: Sequence[str]) -> str | None:
    """Return the network file system of `path` according to lines of mountinfo(5); None for a local one."""
    kind, _ = _find_mount(path, mounts)
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def has_local_locks(path: Path) -> bool:
    """Return whether locks at `path` are invisible to other machines that share its file system."""
    _, options = _find_mount(_resolved(path), _mounts())
    return not LOCAL_LOCKS.isdisjoint(options)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, which is an error only for who opens the file
        return path.parent.resolve() / path.name


def _mounts() -> list[str]:
    try:
        return MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux


def _find_mount(path: Path, mounts: Sequence[str]) -> tuple[str, list[str]]:
    """Return type and options of the file system of `path` according to lines of mountinfo(5)."""
    longest, found = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = os.fsdecode(os.fsencode(left.split()[4]).decode("unicode_escape").encode("latin-1"))
        if path.is_relative_to(point) and len(point) >= len(longest):
            longest, found = point, right
    kind, *rest = found.split() or [""]
    return kind, rest[-1].split(",") if rest else []
