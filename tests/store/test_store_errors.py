"""Unusable places and damaged files raise one typed error with a remedy, and no partial data is written."""

import json
import multiprocessing
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, event, make_url
from unprivileged import run_unprivileged

from ichx.errors import IchxError, InvalidInputError, MissingDependencyError, StorageError, StoreError
from ichx.store import Store, database, migrate
from ichx.store.testing import experiment_draft, version_draft

READ_AND_WRITE = """
import json, sys
from ichx.errors import IchxError
from ichx.store import Store
from ichx.store.testing import version_draft
with Store(sys.argv[1]) as store:
    names = [dataset.name for dataset in store.datasets()]
    try:
        store.add_version(version_draft())
    except IchxError as error:
        print(json.dumps([names, error.code, sys.argv[1] in error.problem]))
"""


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Return a function that limits the pages of new SQLite connections, like a full disk."""
    pages = [2**30]

    def limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages[0]}")

    event.listen(Engine, "connect", limit)
    yield lambda count: pages.__setitem__(0, count)
    event.remove(Engine, "connect", limit)


def open_unprivileged(url: str, pipe: Any, limit: int | None) -> None:
    make_url(url).get_dialect()  # imported while the folders of root are readable
    import_module("ichx.store.maintenance")
    import_module("secrets")
    if os.getuid() == 0 and limit is None:
        os.setuid(65534)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with Store(url) as store:
            store.add_version(version_draft())
        pipe.send(None)
    except IchxError as error:
        pipe.send((error.code, error.problem, error.remedy))


def in_child(url: str, limit: int | None = None) -> Any:
    """Open and write the store in a process without root privileges, or with a limit on the size of files."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=open_unprivileged, args=(url, there, limit))
    child.start()
    answer = here.recv() if here.poll(60) else "no answer"
    child.join(60)
    return answer


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user can access, unlike those of pytest."""
    folder = Path("/tmp") / f"ichx-store-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_file_of_another_kind_is_rejected_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("a shopping list, long enough to be read as a header\n" * 100)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=str(file)) as caught:
        Store(f"sqlite:///{file}")
    assert "ICHX_STORE" in caught.value.remedy
    assert file.read_bytes() == before


def test_a_folder_is_not_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        Store(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "db" / "ichx.db")):
        Store(f"sqlite:///{tmp_path / 'db' / 'ichx.db'}")


def test_a_folder_that_is_not_writable(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    code, problem, remedy = in_child(f"sqlite:///{open_folder / 'ichx.db'}")
    assert code == "store"
    assert str(open_folder / "ichx.db") in problem
    assert "ICHX_STORE" in remedy
    assert list(open_folder.iterdir()) == []


def test_a_store_that_is_not_writable(open_folder: Path) -> None:
    file = open_folder / "ichx.db"
    Store(f"sqlite:///{file}").close()
    file.chmod(0o444)
    open_folder.chmod(0o555)
    code, problem, remedy = in_child(f"sqlite:///{file}")
    assert code == "store"
    assert str(file) in problem
    assert "ICHX_STORE" in remedy


@pytest.mark.parametrize("version", ["0005", "newest"])
def test_a_store_that_is_not_writable_is_read(open_folder: Path, version: str) -> None:
    """Of this version, with write-ahead logging, and of an older one, which would have to be upgraded."""
    file = open_folder / "ichx.db"
    if version != "newest":
        engine = database.connect(str(file))
        with database.writing(engine) as connection:
            command.upgrade(migrate.upgrade_config(connection), version)
        engine.dispose()
    else:
        with Store(str(file)) as store:
            store.add_version(version_draft())
    before = file.read_bytes()
    file.chmod(0o444)
    open_folder.chmod(0o555)
    done = run_unprivileged("-c", READ_AND_WRITE, str(file), cwd=open_folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[] if version != "newest" else ["train"], "store", True]
    assert [path.name for path in open_folder.iterdir()] == ["ichx.db"]
    assert file.read_bytes() == before


def test_a_full_disk_while_the_store_is_created(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    url = f"sqlite:///{tmp_path / 'ichx.db'}"
    small_disk(5)
    with pytest.raises(StoreError, match="disk is full"):
        Store(url)
    small_disk(2**30)
    with Store(url) as store:
        assert store.add_version(version_draft()).number == 1


def test_a_full_disk_in_the_middle_of_a_transaction(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    url = f"sqlite:///{tmp_path / 'ichx.db'}"
    with Store(url) as store:
        draft = experiment_draft(store.add_version(version_draft()))
    small_disk(1)  # SQLite raises it to what is in use
    with Store(url) as store, pytest.raises(StoreError, match="disk is full"):
        store.add_experiments([draft] * 200)
    small_disk(2**30)
    with Store(url) as store:
        assert store.listing()[1] == 0
        assert store.add_experiments([draft])[0].number == 1


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ichx.db'}"
    code, problem, _ = in_child(url, limit=20_000)
    assert code == "store"
    assert str(tmp_path / "ichx.db") in problem
    with Store(url) as store:
        assert store.datasets() == []


def test_a_store_that_stays_locked(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    Store(f"sqlite:///{file}").close()
    other = sqlite3.connect(file)
    other.execute("BEGIN IMMEDIATE")
    with Store(f"sqlite:///{file}?timeout=0.1") as store:
        assert store.datasets() == []  # readers do not wait for a writer
        with pytest.raises(StoreError, match="is locked"):
            store.add_version(version_draft())
        other.rollback()
        assert store.add_version(version_draft()).number == 1
    other.close()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("", InvalidInputError),
        ("nosuchdb://me:secret@host/ichx", InvalidInputError),
        ("mysql+aiomysql://me:secret@host/ichx", MissingDependencyError),
        ("sqlite:////tmp/x.db?timeout=soon", InvalidInputError),
    ],
)
def test_invalid_urls_are_rejected_without_their_password(url: str, error: type[IchxError]) -> None:
    with pytest.raises(error) as caught:
        Store(url)
    assert "secret" not in caught.value.problem + caught.value.remedy
    assert caught.value.remedy


def test_a_damaged_store(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    with Store(f"sqlite:///{file}") as store:
        store.add_version(version_draft())
    data = bytearray(file.read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(StoreError, match=str(file)) as caught, Store(f"sqlite:///{file}") as store:
        store.datasets()
    assert "backup" in caught.value.remedy


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with (
        pytest.raises(StoreError, match=r"127\.0\.0\.1.*port 1") as caught,
        Store("postgresql+psycopg://me@127.0.0.1:1/x"),
    ):
        pass
    assert "\n" not in caught.value.problem  # PostgreSQL appends a hint
