"""Whether the process of a run still lives, as seen from this machine. Standard library only."""

import os
import socket
import sys
from pathlib import Path

_PROC = Path("/proc")


def this_host() -> str:
    """Return this machine's name, as runs record it."""
    return socket.gethostname()


def process_mark(pid: int) -> str | None:
    """Return what tells process `pid` from a later one with the same number: boot, pid namespace and start time.

    None where no such process lives or the system has no `/proc`.
    """
    start = _start_time(pid)
    return f"{_scope()}/{start}" if start else None


def process_lives(pid: int, mark: str | None) -> bool | None:
    """Return whether process `pid` of this host, recorded with `mark`, still lives; None where this cannot be told.

    It cannot be told from another boot or another container that has the same host name.
    """
    if mark is not None and _PROC.joinpath("self/stat").exists():
        scope, _, start = mark.rpartition("/")
        return _start_time(pid) == start if scope == _scope() else None
    if sys.platform == "win32" or _PROC.joinpath("self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
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
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended; starttime is field 22 of proc(5)
