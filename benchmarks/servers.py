"""Servers that benchmarks start for themselves. A function yields None, with a printed reason, where it cannot."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ichx.jobs.private_slurm import PrivateSlurm


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """Yield the URL of an empty database of a new PostgreSQL server with default settings, on a socket."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    initdb, control = (shutil.which(name, path=path) for name in ("initdb", "pg_ctl"))
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if initdb is None or control is None or (user and user not in {entry.pw_name for entry in pwd.getpwall()}):
        print("PostgreSQL: skipped. Install a server (initdb, pg_ctl), or pass --postgres URL.", flush=True)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ichx-pg-", ignore_cleanup_errors=True) as name:
        if user:
            shutil.chown(name, user)

        def call(*command: str) -> None:
            subprocess.run(
                command, user=user, cwd=name, check=True, stdout=subprocess.DEVNULL, env={"LC_ALL": "C.UTF-8"}
            )

        call(initdb, "-D", f"{name}/data", "-U", "ichx", "-A", "trust", "-E", "UTF8")
        call(
            control, "-D", f"{name}/data", "-o", f"-k {name} -c listen_addresses=''", "-l", f"{name}/log", "-w", "start"
        )
        try:
            yield f"postgresql+psycopg://ichx@/postgres?host={name}"
        finally:
            call(control, "-D", f"{name}/data", "-m", "immediate", "-w", "stop")


SLURM_LINES = "KillWait=30\nPartitionName=test Nodes=ALL Default=YES MaxTime=120 State=UP\n"


@contextmanager
def slurm_server(packages: Path | None) -> Iterator[PrivateSlurm | None]:
    """Yield a Slurm from the installed programs, or from Debian packages that are unpacked in `packages`."""
    root = Path("/") if packages is None else packages.resolve()
    if not PrivateSlurm.is_in(root):
        print("Slurm: skipped. Install Debian's slurmctld, slurmd and slurm-client, or use --slurm FOLDER.")
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ichx-slurm-"))
    with closing(PrivateSlurm(root, folder, SLURM_LINES, os.cpu_count() or 1)) as server:
        yield server
