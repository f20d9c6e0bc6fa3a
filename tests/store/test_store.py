"""The contract of the store on SQLite, and SQLite's own settings."""

import sqlite3
import threading
from pathlib import Path

import pytest

from ichx.store import Store, open_store
from ichx.store.testing import StoreContract, experiment_draft, version_draft
from ichx.workspace import init_workspace


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'db' / 'ichx.db'}"


def test_the_store_of_a_workspace_is_created_on_first_use(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "ws")
    with open_store(workspace) as store:
        assert store.datasets() == []
    assert (tmp_path / "ws" / "db" / "ichx.db").is_file()


def test_a_relative_file_is_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICHX_STORE", "sqlite:///deep/er/my.db")
    monkeypatch.chdir(tmp_path)
    open_store(init_workspace(tmp_path / "ws")).close()
    assert (tmp_path / "ws" / "deep" / "er" / "my.db").is_file()
    assert not (tmp_path / "deep").exists()


def test_connections_use_wal_foreign_keys_and_full_sync(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    with Store(f"sqlite:///{file}") as store, store._engine.connect() as connection:
        settings = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in settings]
    assert found == ["wal", 1, 2, 30_000]
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_numbers_of_deleted_rows_are_not_reused(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    with Store(f"sqlite:///{file}") as store:
        draft = experiment_draft(store.add_version(version_draft()))
        store.add_experiments([draft, draft])
        connection = sqlite3.connect(file)
        connection.execute("DELETE FROM experiment")
        connection.commit()
        connection.close()
        assert store.add_experiments([draft])[0].number == 3


def test_metrics_are_stored_without_a_second_index(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    Store(f"sqlite:///{file}").close()
    connection = sqlite3.connect(file)
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'epoch_metric'").fetchone()
    assert "WITHOUT ROWID" in sql
    connection.close()


def test_threads_share_a_store(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'ichx.db'}") as store:
        draft = experiment_draft(store.add_version(version_draft()))
        numbers: list[int] = []
        threads = [
            threading.Thread(target=lambda: numbers.extend(e.number for e in store.add_experiments([draft] * 3)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers) == list(range(1, 13))
