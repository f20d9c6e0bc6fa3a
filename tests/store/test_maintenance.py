"""Maintenance of a SQLite store: checks, backups while others write, read-only queries."""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ichx.errors import (
    ConflictError,
    InvalidInputError,
    ResourceError,
    StorageError,
    StoreError,
    UnsupportedError,
)
from ichx.store import EpochRecord, Store
from ichx.store.maintenance import QueryLimits
from ichx.store.testing import experiment_draft, run_draft, version_draft


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ichx.db"


@pytest.fixture
def store(file: Path) -> Store:
    store = Store(f"sqlite:///{file}")
    store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    return store


def test_an_undamaged_store_has_no_problems(store: Store) -> None:
    checks = store.check_file()
    assert [result.problems for result in checks] == [()] * 6
    assert [result.what.split()[0] for result in checks] == [
        "pages",
        "tables,",
        "references",
        "version",
        "dates,",
        "local",
    ]


def test_a_broken_reference_is_reported(store: Store, file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO tag VALUES (77, 'lost')")
    connection.commit()
    connection.close()
    (problem,) = [problem for result in store.check_file() for problem in result.problems]
    assert "tag" in problem
    assert "experiment" in problem


def test_a_backup_during_writes_is_consistent(store: Store, file: Path, tmp_path: Path) -> None:
    run = store.start_run(run_draft())
    stop = threading.Event()

    def write() -> None:
        with Store(f"sqlite:///{file}") as other:
            epoch = 0
            while not stop.is_set():
                epoch += 1
                other.record_epoch(run.id, EpochRecord("full", 0, epoch, {"loss": 1.0, "score": 2.0}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for index in range(5):
            assert store.back_up(tmp_path / f"copy-{index}.db") > 0
    finally:
        stop.set()
        writer.join()
    for index in range(5):
        with Store(f"sqlite:///{tmp_path / f'copy-{index}.db'}") as copy:
            history = copy.history(1, 0)
            assert [record.epoch for record in history] == list(range(1, len(history) + 1))
            assert all(record.values == {"loss": 1.0, "score": 2.0} for record in history)
    assert not list(tmp_path.glob(".copy*"))


def test_a_backup_replaces_no_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "mine.db"
    target.write_text("mine")
    with pytest.raises(ConflictError, match=str(target)):
        store.back_up(target)
    assert target.read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file" / "copy.db")):
        store.back_up(tmp_path / "file" / "copy.db")


def test_a_query_returns_columns_and_rows(store: Store) -> None:
    result = store.query("with found as (select number, upper(name) as n from experiment) select * from found -- all")
    assert result.columns == ("number", "n")
    assert result.rows == [(1, "FIRST")]


@pytest.mark.parametrize(
    "sql",
    [
        "delete from experiment",
        "insert into tag values (1, 'x')",
        "drop table experiment",
        "create table mine (a)",
        "attach 'ELSEWHERE/other.db' as other",
        "pragma journal_mode = delete",
        "vacuum into 'ELSEWHERE/copy.db'",
        "select load_extension('x')",
        "select 1; select 2",
        "select * from nothing",
        "",
        "no query",
        "begin",
    ],
)
def test_other_statements_are_rejected_and_change_nothing(store: Store, file: Path, sql: str) -> None:
    store.close()
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    before = file.read_bytes()
    with pytest.raises(InvalidInputError):
        store.query(sql.replace("ELSEWHERE", str(elsewhere)))
    assert file.read_bytes() == before
    assert list(elsewhere.iterdir()) == []


INVALID = (
    ("experiment", "created", "'yesterday'", "number 1"),
    ("experiment", "created", "20261128", "number 1"),
    ("experiment", "created", "cast(x'ff' AS TEXT)", "number 1"),
    ("experiment", "origin", "'{'", "number 1"),
    ("experiment", "origin", "'[1]'", "number 1"),
    ("experiment", "tuned", "'{\"study\": 1}'", "number 1"),
    ("experiment", "recipe", "cast(x'ff41' AS TEXT)", "number 1"),
    ("dataset_version", "summary", "'[]'", "id 1"),
    ("dataset_version", "summary", "''", "id 1"),
    ("run", "started", "''", "id 1"),
    ("run", "heartbeat", "'2026-13-41 00:00:00'", "id 1"),
    ("run", "libraries", "'nothing'", "id 1"),
    ("dataset", "created", "'?'", "name 'train'"),
)


@pytest.mark.parametrize(("table", "column", "value", "row"), INVALID)
def test_an_undecodable_value_is_named_by_the_check(
    store: Store, file: Path, table: str, column: str, value: str, row: str
) -> None:
    store.start_run(run_draft())
    connection = sqlite3.connect(file)
    connection.execute(f"UPDATE {table} SET {column} = {value}")
    connection.commit()
    connection.close()
    (problem,) = [problem for result in store.check_file() for problem in result.problems]
    assert f"table {table}, row {row}, column {column}: " in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("experiment SET created = 'yesterday'", lambda store: store.experiments()),
        ("experiment SET created = 5", lambda store: store.experiment(1)),
        ("experiment SET tuned = '{}'", lambda store: store.experiment(1)),
        ("experiment SET recipe = cast(x'ff' AS TEXT)", lambda store: store.experiment(1)),
        ("dataset_version SET summary = '{'", lambda store: store.version("train")),
        ("dataset SET created = ''", lambda store: store.datasets()),
        ("run SET heartbeat = 'now'", lambda store: store.experiments()),
        ("run SET heartbeat = 'now'", lambda store: store.start_run(run_draft())),
        ("run SET libraries = 'none'", lambda store: store.runs(1)),
        ("run SET libraries = '[]'", lambda store: store.runs(1)),
        ("run SET provenance = '5'", lambda store: store.runs(1)),
        ("dataset_version SET summary = '[]'", lambda store: store.version("train")),
        ("experiment SET origin = '[]'", lambda store: store.experiment(1)),
        ("experiment SET tuned = '[]'", lambda store: store.experiment(1)),
    ],
)
def test_an_undecodable_value_is_one_error(
    store: Store, file: Path, change: str, read: Callable[[Store], object]
) -> None:
    store.start_run(run_draft())
    connection = sqlite3.connect(file)
    connection.execute(f"UPDATE {change}")
    connection.commit()
    connection.close()
    table, _, column, *_ = change.split()
    with pytest.raises(StoreError, match=f"table {table}, row .*, column {column}: ") as caught:
        read(store)
    assert "store check" in caught.value.remedy


def test_an_error_in_a_store_without_invalid_values_stays_what_it_is(store: Store) -> None:
    with pytest.raises(ValueError, match="fold"):
        store.add_experiments([replace(experiment_draft(store.version("train")), fold_digest="x")])


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DROP TABLE note", "table note"),
        ("DROP TABLE experiment", "table experiment"),
        ("DROP INDEX ix_tag_tag", "index ix_tag_tag"),
        ("ALTER TABLE run DROP COLUMN error", "column error of the table run"),
        ("ALTER TABLE setting RENAME TO settings", "table setting"),
    ],
)
def test_missing_tables_columns_and_indices_are_found(store: Store, file: Path, change: str, missing: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(change)
    connection.commit()
    connection.close()
    found = {result.what: result.problems for result in store.check_file()}
    assert found["tables, columns and indices"] == (f"the {missing} is missing",) or (
        missing.startswith("index") and missing in found["tables, columns and indices"][0]
    )


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        (f"{ENDLESS} SELECT count(*) FROM r", "0.2 s"),
        (f"{ENDLESS} SELECT n FROM r", "MB"),
        (f"{ENDLESS} SELECT n FROM r ORDER BY -n", "MB|2 s"),
        (f"{ENDLESS} SELECT zeroblob(1000000) FROM r", "MB"),
        ("SELECT zeroblob(100000000)", "MB"),
        (f"{ENDLESS} SELECT group_concat(n) FROM r", "MB|2 s"),
    ],
)
def test_an_endless_query_ends_at_its_limits(store: Store, sql: str, value: str) -> None:
    seconds = 0.2 if value == "0.2 s" else 2.0 if "2 s" in value else 30.0
    with pytest.raises(ResourceError, match=value) as caught:
        store.query(sql, QueryLimits(seconds, 3_000_000))
    assert "--timeout" in caught.value.remedy
    assert store.query("SELECT 1").rows == [(1,)]


def test_a_store_without_a_file_has_no_maintenance() -> None:
    with Store("sqlite:///:memory:") as store, pytest.raises(UnsupportedError, match="memory"):
        store.query("select 1")
