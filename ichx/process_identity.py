"""Whether the process of a run, or the holder of a lock, is alive, as seen from this machine. Standard library only."""

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def host_name() -> str:
    """Return the name of this machine as runs record it."""
    return socket.gethostname()


def process_identity(pid: int) -> str | None:
    """Return boot id, pid namespace and start time of process `pid`, which no later process with that pid shares.

    None if there is no such process or no `/proc`.
    """
    start = _start_time(pid)
    return f"{_scope()}/{start}" if start else None


def is_process_alive(pid: int, identity: str | None) -> bool | None:
    """Return whether process `pid` of this host, recorded with its `identity`, is alive; None if unknown.

    It is unknown for a process of another boot, or of another container with the same host name.
    """
    if _PROC.joinpath("self/stat").exists():
        if identity is None:
            return None
        scope, _, start = identity.rpartition("/")
        return _start_time(pid) == start if scope == _scope() else None
    return is_process_id_used(pid)


def is_process_id_used(pid: int) -> bool:
    """Return whether any process with this pid runs here; one that has ended, but was not reaped, does not count."""
    if _PROC.joinpath("self/stat").exists():
        return _start_time(pid) is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _scope() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return "unknown"


def _start_time(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name in front may contain spaces and brackets
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended; starttime is field 22 of proc(5)
