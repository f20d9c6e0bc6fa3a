"""Migrations create the tables of the code, atomically, once, and only in stores of ichx."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ichx.errors import UnsupportedError
from ichx.store import Store, database, migrate
from ichx.store.tables import METADATA, VERSION_TABLE
from ichx.store.testing import version_draft

OPEN = "import sys; from ichx.store import Store; Store(sys.argv[1]).close()"
UPGRADE_AND_HANG = """
import sys, time
from ichx.store import Store, migrate
upgrade = migrate._upgrade
def hang(connection):
    upgrade(connection)
    print("upgraded", flush=True)
    time.sleep(60)
migrate._upgrade = hang
Store(sys.argv[1])
"""


def python(code: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tables(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


def test_the_migrations_create_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'ichx.db'}") as store, store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_primary_keys_and_rowids_are_those_of_the_code(tmp_path: Path) -> None:
    """`compare_metadata` does not compare these."""
    file = tmp_path / "ichx.db"
    with Store(f"sqlite:///{file}"):
        pass
    connection = sqlite3.connect(file)
    for table in METADATA.sorted_tables:
        columns = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
        key = [name for _, name, _, _, _, place in sorted(columns, key=lambda c: c[5]) if place]
        assert key == [column.name for column in table.primary_key], table.name
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", [table.name]).fetchone()
        assert ("WITHOUT ROWID" in sql) is (table.dialect_options["sqlite"]["with_rowid"] is False), table.name
    connection.close()


def test_head_is_the_newest_migration_of_one_chain() -> None:
    script = ScriptDirectory(str(migrate.MIGRATIONS))
    assert script.get_heads() == [migrate.HEAD]
    numbers = [revision.revision for revision in script.walk_revisions()][::-1]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]


def test_an_upgrade_keeps_records_and_marks_leaks(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    engine = database.connect(f"sqlite:///{file}")
    with database.writing(engine) as connection:
        command.upgrade(migrate.upgrade_config(connection), "0001")
    engine.dispose()
    connection = sqlite3.connect(file)
    when = "2024-05-01 12:00:00.000000"
    connection.execute("INSERT INTO dataset VALUES ('train', NULL, ?)", [when])
    connection.execute(
        "INSERT INTO dataset_version VALUES (1, 'train', 1, '/files', 'v1', 'd', 'l', 9, 3, 0, NULL, '{}', ?)", [when]
    )
    connection.executemany(
        "INSERT INTO fold_set VALUES (?, 1, ?, 3, 7, ?, ?)", [(1, "default", "honest", 0), (2, "theirs", "leaks", 1)]
    )
    for number, folds, digest in ((1, 1, "honest"), (2, 2, "leaks")):
        connection.execute(
            "INSERT INTO experiment VALUES (?, 'experiment', 'e', 'tiny', 64, 'linear', 1, 'l', ?, ?, 8, NULL, ?,"
            " 0, 0, 0, 0.25, 0.01, NULL, NULL, 'r', 'recipe')",
            [number, folds, digest, when],
        )
    connection.execute("UPDATE counter SET last = 2 WHERE kind = 'experiment'")
    connection.commit()
    connection.close()
    with Store(f"sqlite:///{file}") as store:
        version = store.version("train")
        assert [(f.name, f.seed, f.leaking_patients, f.source) for f in version.folds] == [
            ("default", 7, 0, None),
            ("theirs", 7, 1, None),
        ]
        found = [(e.number, e.fold_set, e.leaked, e.score, e.recipe) for e in map(store.experiment, (1, 2))]
        assert found == [(1, "default", False, 0.25, "recipe"), (2, "theirs", True, 0.25, "recipe")]
        assert store.add_version(version_draft(leaking=2)).folds[0].leaking_patients == 2


def test_opening_an_up_to_date_store_imports_no_heavy_module(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ichx.db'}"
    Store(url).close()
    heavy = ("alembic", "sqlalchemy.orm", "pandas", "numpy", "torch")
    code = f"{OPEN}; print([m for m in {heavy} if m in sys.modules])"
    out, err = python(code, url).communicate(timeout=900)
    assert (out.strip(), err) == ("[]", "")


def test_concurrent_processes_create_a_missing_store_once(tmp_path: Path) -> None:
    file = tmp_path / "db" / "ichx.db"
    processes = [python(OPEN, f"sqlite:///{file}") for _ in range(8)]
    results = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, results
    connection = sqlite3.connect(file)
    assert connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [(migrate.HEAD,)]
    assert connection.execute("SELECT count(*) FROM counter").fetchone() == (2,)
    connection.close()


def test_opening_waits_for_a_process_that_locks_the_new_file(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, holder.rollback)
    release.start()
    Store(f"sqlite:///{file}").close()
    release.join()
    holder.close()
    assert tables(file) == {*METADATA.tables, VERSION_TABLE}


def test_an_upgrade_that_was_killed_is_finished_by_the_next_command(tmp_path: Path) -> None:
    file = tmp_path / "ichx.db"
    process = python(UPGRADE_AND_HANG, f"sqlite:///{file}")
    assert process.stdout is not None
    assert process.stdout.readline() == "upgraded\n"
    process.kill()
    process.communicate()
    assert tables(file) == set()
    with Store(f"sqlite:///{file}") as store:
        assert store.add_version(version_draft()).number == 1
    assert tables(file) == {*METADATA.tables, VERSION_TABLE}


def test_a_failing_upgrade_creates_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ichx.db"
    upgrade = migrate._upgrade

    def fail(connection: object) -> None:
        upgrade(connection)
        raise RuntimeError("after the last step")

    monkeypatch.setattr(migrate, "_upgrade", fail)
    with pytest.raises(RuntimeError, match="last step"):
        Store(f"sqlite:///{file}")
    assert tables(file) == set()


@pytest.mark.parametrize("stamp", ["0999", None])
def test_a_newer_store_is_rejected_and_unchanged(tmp_path: Path, stamp: str | None) -> None:
    file = tmp_path / "ichx.db"
    Store(f"sqlite:///{file}").close()
    connection = sqlite3.connect(file)
    connection.execute(f"DELETE FROM {VERSION_TABLE}")
    if stamp:
        connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (?)", [stamp])
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(UnsupportedError, match=f"{file}.*{stamp}"):
        Store(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_database_of_another_program_is_rejected_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    connection.execute("INSERT INTO alembic_version VALUES ('0001')")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(UnsupportedError, match=str(file)):
        Store(f"sqlite:///{file}")
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_the_migrations_are_packaged() -> None:
    assert (migrate.MIGRATIONS / "env.py").is_file()
    assert list((migrate.MIGRATIONS / "versions").glob(f"{migrate.HEAD}_*.py"))
