"""Refusals of a PostgreSQL server are one clear line each, and passwords appear nowhere."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import SHORT, Program
from postgres_server import PASSWORD, PostgresServer, postgres  # noqa: F401  # a fixture

from ichx.errors import InvalidInputError, StoreError
from ichx.store import Store, database
from ichx.store.testing import experiment_draft, version_draft
from ichx.workspace import init_workspace

Change = Callable[[str, PostgresServer], str]

REFUSALS: dict[str, tuple[Change, str, str]] = {
    # name: (change of a valid URL, part of the problem, part of the remedy)
    "no such database": (lambda url, server: url.replace("@/ichx", "@/nowhere"), '"nowhere', "createdb"),
    "no such user": (lambda url, server: url.replace("ichx@", "nobody_here@"), '"nobody_here"', "createuser"),
    "no such host": (
        lambda url, server: url.partition("?")[0] + "?host=db.invalid",
        "db.invalid",
        "name of the server",
    ),
    "no server": (lambda url, server: url.partition("?")[0] + "?host=127.0.0.1&port=1", "port 1", "server runs"),
    "two addresses": (lambda url, server: url.partition("?")[0] + "?host=localhost&port=1", "port 1", "server runs"),
    "no socket": (lambda url, server: url + "&port=7", "7", "server runs"),
    "wrong password": (lambda url, server: url.replace("ichx@", "secret:guessed@"), '"secret"', "pgpass"),
    "no password": (lambda url, server: url.replace("ichx@", "secret@"), "password", "pgpass"),
    "not the owner": (lambda url, server: with_password(url.replace("ichx@", "secret@")), "public", "CREATE"),
}


def with_password(url: str) -> str:
    return url.replace("secret@", f"secret:{quote(PASSWORD, safe='')}@")


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_line_at_once(
    postgres: PostgresServer,  # noqa: F811
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    change, problem, remedy = REFUSALS[case]
    url = change(postgres(), postgres)
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        Store(url)
    assert time.monotonic() - began < 30
    assert "\n" not in caught.value.problem
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    for secret in ("guessed", PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in caught.value.problem + caught.value.remedy


def test_too_many_clients(postgres: PostgresServer) -> None:  # noqa: F811
    url = postgres("secret")
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0", "postgres")
    with pytest.raises(StoreError) as caught:
        Store(with_password(url))
    assert name in caught.value.problem
    assert "max_connections" in caught.value.remedy


def test_a_value_that_the_database_cannot_store(postgres: PostgresServer) -> None:  # noqa: F811
    with Store(postgres()) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
        for request in (lambda: store.add_note(1, "a\0b"), lambda: store.rename(1, "x" * 201)):
            with pytest.raises(InvalidInputError):
                request()
        assert store.notes(1) == []


def test_the_driver_is_chosen_where_the_url_has_none(postgres: PostgresServer) -> None:  # noqa: F811
    url = postgres()
    for scheme in ("postgres", "postgresql"):
        with Store(url.replace("postgresql+psycopg", scheme)) as store:
            assert store.name == url.replace("/tmp", "%2Ftmp").replace("/ichx-pg", "%2Fichx-pg")


@pytest.mark.parametrize("url", ["postgresql://me:p@ss@host/db", "postgresql://me:a@b@c@host:5432/db"])
def test_an_at_sign_in_a_password_is_reported_without_it(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Store(url)
    assert "%40" in caught.value.remedy
    assert not {"ss@host", "p@ss", "b@c"} & set(caught.value.problem.replace(".", " ").split())
    assert "host" not in caught.value.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:hunter2@/db?host=127.0.0.1&port=1",
        "postgresql+psycopg://me@/db?host=127.0.0.1&port=1&password=hunter2",
        "postgresql+psycopg://me@/db?host=127.0.0.1&port=1&sslpassword=hunter2",
        "postgresql://me:hunter2@host:port/db",
        "postgrsql://me:hunter2@host/db",
        "postgresql+nothing://me:hunter2@host/db",
        "postgresql+psycopg://me:hunter2@/db?nonsense=1&host=127.0.0.1",
    ],
)
@pytest.mark.parametrize("arguments", [("exp", "list"), ("exp", "list", "--json"), ("--debug", "exp", "list")])
def test_a_url_that_fails_does_not_show_its_password(
    tmp_path: Path, ichx_process: Program, url: str, arguments: tuple[str, ...]
) -> None:
    init_workspace(tmp_path)
    done = ichx_process(*arguments, cwd=tmp_path, ICHX_STORE=url)
    assert done.code == 1
    assert "hunter2" not in done.out + done.err
    assert ("Traceback" in done.err) == ("--debug" in arguments), done.err


@pytest.mark.slow
def test_passwords_are_in_no_output_and_no_file(
    postgres: PostgresServer,  # noqa: F811
    dataset_copy: Path,
    tmp_path: Path,
    ichx_process: Program,
) -> None:
    """Once with the password in the URL, and once in a pgpass file."""
    url = postgres("secret")
    encoded = with_password(url)
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:secret:{PASSWORD}\n")
    passfile.chmod(0o600)
    shown = ""
    done = ichx_process("store", "move", encoded, cwd=dataset_copy)
    assert done.code == 0, done.err
    shown += done.out + done.err
    for environment in ({"ICHX_STORE": encoded}, {"ICHX_STORE": url, "PGPASSFILE": str(passfile)}):
        for command in (
            ("exp", "new", "--plugin", "tiny_resnet", "--size", "32", *(f"--set={value}" for value in SHORT)),
            ("run", "1", "--fold", "0"),
            ("exp", "show", "1"),
            ("exp", "list", "--json"),
            ("store", "check"),
            ("report", "1"),
        ):
            done = ichx_process(*command, cwd=dataset_copy, **environment)
            assert done.code == 0, (command, done.err)
            shown += done.out + done.err
    secrets = (PASSWORD, quote(PASSWORD, safe=""))
    assert not [secret for secret in secrets if secret in shown]
    files = [path for path in dataset_copy.rglob("*") if path.is_file()]
    assert any(path.name == "workspace.json" for path in files)
    assert not [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]
    with Store(encoded) as store:
        assert store.runs(1)
        for table in ("run", "setting", "experiment", "job"):
            with database.reading(store._engine) as connection:
                rows = str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
            assert not [secret for secret in secrets if secret in rows]


def test_a_pgpass_file_of_the_home_folder(
    postgres: PostgresServer,  # noqa: F811
    tmp_path: Path,
    ichx_process: Program,
) -> None:
    (tmp_path / ".pgpass").write_text(f"*:*:*:secret:{PASSWORD}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    init_workspace(tmp_path / "workspace")
    url = postgres("secret")
    done = ichx_process("exp", "list", cwd=tmp_path / "workspace", ICHX_STORE=url, HOME=str(tmp_path))
    assert done.code == 0, done.err
