"""A store that is busy, locked, upgraded, removed, replaced or away while the server runs, and comes back."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from postgres_server import PostgresServer, own_postgres, postgres  # noqa: F401  # fixtures
from running_programs import wait_until
from unprivileged import start_unprivileged
from web_site import Serve, Served

from ichx.store import open_store
from ichx.store.migrate import HEAD
from ichx.web import site as site_module
from ichx.workspace import open_workspace


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests not wait."""
    monkeypatch.setattr(site_module, "PATIENCE", 0.2)


@pytest.fixture
def file(trained_copy: Path) -> Path:
    """Return the store of a workspace."""
    return trained_copy / "db" / "ichx.db"


@pytest.fixture
def served(trained_copy: Path, serve: Serve) -> Served:
    """Return a server of that workspace."""
    return serve(trained_copy)


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """Return a signed-in client of that server."""
    with served.client() as client:
        assert client.get("/experiments").status_code == 200
        yield client


def check_problem(client: httpx.Client, status: int, *values: str) -> None:
    """Assert that pages explain a problem with these values, with the navigation."""
    answer = client.get("/experiments")
    assert answer.status_code == status, answer.text
    for value in (*values, "<h1>Error</h1>", 'href="/experiments"'):
        assert value in answer.text
    assert "Traceback" not in answer.text


def check_works(client: httpx.Client) -> None:
    answer = client.get("/experiments")
    assert answer.status_code == 200, answer.text
    assert "tiny_resnet" in answer.text


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as store, store:
        for statement in statements:
            store.execute(statement)


def test_a_store_that_was_removed(client: httpx.Client, file: Path) -> None:
    away = file.with_name("away.db")
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{file}{suffix}").exists():
            Path(f"{file}{suffix}").rename(f"{away}{suffix}")
    check_problem(client, 503, str(file))
    assert not file.exists(), "an empty store must not take its place"
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{away}{suffix}").exists():
            Path(f"{away}{suffix}").rename(f"{file}{suffix}")
    check_works(client)


def test_a_workspace_that_was_removed(client: httpx.Client, trained_copy: Path) -> None:
    away = trained_copy.with_name("away")
    trained_copy.rename(away)
    check_problem(client, 503, str(trained_copy / "db" / "ichx.db"))
    assert not trained_copy.exists()
    away.rename(trained_copy)
    check_works(client)


def test_another_store_in_its_place(client: httpx.Client, file: Path, dataset_root: Path, tmp_path: Path) -> None:
    backup = Path(shutil.copy(file, tmp_path / "backup.db"))
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    other = Path(shutil.copy(dataset_root / "db" / "ichx.db", tmp_path / "other.db"))
    other.replace(file)
    check_problem(client, 409, str(file), "ichx store adopt")
    backup.replace(file)
    check_works(client)


def test_a_damaged_store(client: httpx.Client, file: Path, tmp_path: Path) -> None:
    backup = Path(shutil.copy(file, tmp_path / "backup.db"))
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    (tmp_path / "garbage").write_bytes(b"garbage" * 10_000)
    (tmp_path / "garbage").replace(file)
    check_problem(client, 503, str(file), "not a database")
    backup.replace(file)
    check_works(client)


def test_a_store_that_a_newer_version_has_upgraded(client: httpx.Client, file: Path) -> None:
    execute(file, "UPDATE ichx_version SET version_num = '9999'")
    wait_until(lambda: client.get("/experiments").status_code != 200)  # it is checked once a second
    check_problem(client, 409, str(file), "9999", "Upgrade ichx")
    execute(file, f"UPDATE ichx_version SET version_num = '{HEAD}'")
    check_works(client)


def test_a_locked_store(served: Served, client: httpx.Client, file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")  # another writer does not disturb readers
        check_works(client)
        other.rollback()
    served.site.project.store._engine.dispose()
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        check_problem(client, 503, str(file), "locked")
        other.rollback()
    check_works(client)


def test_a_change_while_another_program_writes_is_refused_and_can_be_repeated(client: httpx.Client, file: Path) -> None:
    requests = [("/api/experiments/1/name", {"name": "changed"}), ("/api/experiments/1/notes", {"text": "changed"})]
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        for path, body in requests:
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store"), answer.text
        other.rollback()
    assert client.get("/api/experiments/1/annotations").json()["notes"] == []
    for path, body in requests:
        assert client.post(path, json=body).status_code == 200
    assert [note["text"] for note in client.get("/api/experiments/1/annotations").json()["notes"]] == ["changed"]


def test_a_store_that_was_moved(client: httpx.Client, trained_copy: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.db"
    with open_store(open_workspace(trained_copy)) as store:
        store.rename(1, "before the move")
    with closing(sqlite3.connect(trained_copy / "db" / "ichx.db")) as old, closing(sqlite3.connect(moved)) as new:
        old.backup(new)
    execute(moved, "UPDATE experiment SET name = 'after the move' WHERE number = 1")
    (trained_copy / "ichx.toml").write_text(f'store = "{moved}"\n')
    assert "after the move" in client.get("/experiments").text


def test_two_servers_of_one_workspace_see_each_other(trained_copy: Path, serve: Serve) -> None:
    first, second = serve(trained_copy), serve(trained_copy)
    with first.client() as one, second.client() as two:
        for served, client, name in ((first, two, "from the first"), (second, one, "from the second")):
            with served.site.changing() as project:
                project.store.rename(1, name)
            assert name in client.get("/experiments").text


def test_a_postgres_server_that_is_away(
    own_postgres: PostgresServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
) -> None:
    from ichx.workspace import init_workspace

    root = init_workspace(tmp_path / "workspace").root
    monkeypatch.setenv("ICHX_STORE", own_postgres())
    with serve(root).client() as client:
        assert client.get("/experiments").status_code == 200
        own_postgres.stop()
        check_problem(client, 503, str(own_postgres.folder))
        own_postgres.start()
        assert client.get("/experiments").status_code == 200


def test_a_workspace_without_write_permission(trained_copy: Path, file: Path) -> None:
    """The server reads a copy, which follows changes that somebody else makes."""
    folders = [trained_copy, file.parent]
    for path in folders:
        path.chmod(0o555)
    file.chmod(0o444)
    process = start_unprivileged("-m", "ichx", "ui", "--no-browser", "--port", "0", cwd=trained_copy)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            page = client.get(url)
            assert page.status_code == 200, page.text
            assert "data-read-only" in page.text
            assert "tiny_resnet" in page.text
            execute(file, "UPDATE experiment SET name = 'changed later' WHERE number = 1")
            wait_until(lambda: "changed later" in client.get(url).text, process)
        assert sorted(path.name for path in file.parent.glob("ichx.db*")) == ["ichx.db"]
    finally:
        process.terminate()
        process.communicate()
        for path in (*folders, file):
            path.chmod(0o755)
