"""Whether a path is on a network file system, according to the mounts of this process. Linux only."""

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

MOUNTS = Path("/proc/self/mountinfo")


def network_mount(path: Path) -> str | None:
    """Return the network file system of `path`; None for a local one, or if unknown."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None  # not Linux
    return find_network_mount(path.resolve(), lines)


def find_network_mount(path: Path, mounts: Sequence[str]) -> str | None:
    """Return the network file system of `path` according to lines of mountinfo(5); None for a local one."""
    longest, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = os.fsdecode(os.fsencode(left.split()[4]).decode("unicode_escape").encode("latin-1"))
        if path.is_relative_to(point) and len(point) >= len(longest):
            longest, kind = point, right.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None
