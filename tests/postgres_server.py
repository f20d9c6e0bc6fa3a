"""A PostgreSQL server for tests, on a socket in a temporary folder; skipped where there is none."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest


def _programs() -> dict[str, str] | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = {name: shutil.which(name, path=path) for name in ("initdb", "pg_ctl")}
    return {name: place for name, place in found.items() if place} if all(found.values()) else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the URL of a new, empty database."""
    psycopg = pytest.importorskip("psycopg")
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="ichx-pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)

    def call(*command: str) -> None:
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"})

    try:
        call(programs["initdb"], "-D", str(folder / "data"), "-U", "ichx", "-A", "trust", "-E", "UTF8", "-N")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        call(programs["pg_ctl"], "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        numbers = count(1)

        def create() -> str:
            name = f"ichx{next(numbers)}"
            with psycopg.connect(f"host={folder} user=ichx dbname=postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return f"postgresql+psycopg://ichx@/{name}?host={folder}"

        yield create
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call(programs["pg_ctl"], "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
