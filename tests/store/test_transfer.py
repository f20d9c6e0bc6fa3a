"""Copying, moving, checking and backing up stores on SQLite and PostgreSQL."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Program
from optuna_studies import fill, new_study
from postgres_server import PostgresServer, postgres  # noqa: F401  # a fixture
from sqlalchemy import make_url

from ichx.errors import ConflictError, StoreError
from ichx.plugins import load_registry
from ichx.recipe_text import to_toml
from ichx.store import EpochRecord, Store, database, open_store
from ichx.store.copying import _Content
from ichx.store.tables import METADATA
from ichx.store.testing import ensemble_draft, experiment_draft, prediction_draft, run_draft, version_draft
from ichx.store.transfer import copy_store, move_store, open_empty
from ichx.tuning import studies_url
from ichx.tuning.results import study_names
from ichx.tuning.storage import open_storage, open_study
from ichx.workspace import Workspace, init_workspace, open_workspace

Place = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a function that returns the URL of a new database."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server
    files = iter(range(10))
    return lambda: str(tmp_path / f"store {next(files)}.db")


@pytest.fixture(params=["to sqlite", "to postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "to postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server()
    return str(tmp_path / "target.db")


def fill_store(store: Store) -> None:
    """Record something in each table."""
    version = store.add_version(version_draft())
    store.add_version(version_draft("hidden", test_of="train"))
    recipe = to_toml(load_registry().get("tiny_resnet").recipe)
    drafts = [replace(experiment_draft(version, parent=parent), recipe=recipe) for parent in (None, 1)]
    store.add_experiments(drafts)
    run = store.start_run(run_draft())
    store.record_epoch(run.id, EpochRecord("full", 0, 1, {"loss": 0.1 + 0.2, "score": float("nan"), "lr": 1e-300}))
    store.finish_run(run.id, "done", predictions=[prediction_draft(version.id)])
    store.add_note(1, "ünïcödé 𝔘\n\ttab \\ ' \"")
    store.change_tags(2, add=["a", "B", "ä"])
    store.set_setting("columns", {"z": [1, None, 1e-7], "a": "ö"})
    store.add_ensemble(ensemble_draft(version, 1, 2))


def content(store: Store) -> dict[str, tuple[int, int]]:
    found = {}
    with database.reading(store._engine) as connection:
        for table in METADATA.sorted_tables:
            of_table = _Content()
            of_table.add(connection.execute(table.select()))
            found[table.name] = (of_table.rows, of_table._sum)
    return found


def using(workspace: Workspace, url: str, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("ICHX_STORE", url)
    return open_workspace(workspace.root)


@pytest.fixture
def workspace(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a workspace whose store is filled."""
    monkeypatch.setenv("ICHX_STORE", place())
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        fill_store(store)
    return workspace


def test_a_copy_is_complete_and_continues(workspace: Workspace, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(workspace) as store:
        with open_empty(store, target) as new:
            rows = copy_store(store, new)
            assert content(new) == content(store)
        assert (rows["experiment"], rows["run"], rows["note"], rows["dataset"], rows["tag"]) == (2, 1, 1, 2, 3)
        before = [store.experiment(1), store.experiment(2)]
        state, version = store.state(), store.version("train")
        with pytest.raises(ConflictError, match="records"), open_empty(store, target):
            pass
    with open_store(using(workspace, target, monkeypatch)) as copied:  # it has the id of the workspace
        assert copied.state() == state
        assert [copied.experiment(1), copied.experiment(2)] == before
        assert copied.history(1, 0)[0].values["loss"] == 0.1 + 0.2
        assert copied.add_experiments([experiment_draft(version)])[0].number == 3
        assert copied.start_run(run_draft(2)).id == 2, "the sequence continues"
        assert copied.add_note(2, "more").id == 2
        assert copied.add_version(version_draft()).number == 2
        assert not [problem for result in copied.check_file() for problem in result.problems]


def test_a_moved_store_is_that_of_the_workspace(
    workspace: Workspace, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(workspace) as store:
        run = store.start_run(run_draft(2))
        with open_empty(store, target) as new:
            with pytest.raises(ConflictError, match=str(run.pid)):
                move_store(store, new, workspace)
            store.finish_run(run.id, "done")
            move_store(store, new, workspace)
            name = new.name
        with pytest.raises(ConflictError) as caught:
            store.add_note(1, "late")
        assert name in caught.value.problem
    with pytest.raises(ConflictError) as caught:
        open_store(workspace)
    assert name in caught.value.remedy
    with open_store(using(workspace, target, monkeypatch)) as moved:
        assert moved.add_note(1, "more").id == 2


def test_the_store_itself_is_no_target(workspace: Workspace) -> None:
    with open_store(workspace) as store, pytest.raises(ConflictError), open_empty(store, str(workspace.store_url)):
        pass


def test_a_value_that_the_target_cannot_store_is_named_and_nothing_is_copied(
    tmp_path: Path,
    postgres: PostgresServer,  # noqa: F811
) -> None:
    with Store(str(tmp_path / "old.db")) as store, Store(postgres()) as target:
        fill_store(store)
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE fold_set SET seed = 3000000000")
        with pytest.raises(StoreError) as caught:
            copy_store(store, target)
        assert "fold_set" in caught.value.problem
        assert "id 1" in caught.value.problem
        assert target.datasets() == []


def test_a_copy_that_differs_is_noticed(
    tmp_path: Path,
    postgres: PostgresServer,  # noqa: F811
) -> None:
    url = postgres()
    with Store(str(tmp_path / "old.db")) as store, Store(url) as target:
        fill_store(store)
        name = make_url(url).database
        assert name is not None
        postgres.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.text = 'x'; RETURN NEW; END $$;"
            "CREATE TRIGGER lose BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION lose()",
            name,
        )
        with pytest.raises(StoreError, match="note"):
            copy_store(store, target)
        assert target.datasets() == []


def test_check_finds_problems_of_a_server(postgres: PostgresServer) -> None:  # noqa: F811
    url = postgres()
    name = make_url(url).database
    assert name is not None
    with Store(url) as store:
        fill_store(store)
        assert [problem for result in store.check_file() for problem in result.problems] == []
        postgres.execute("ALTER SEQUENCE run_id_seq RESTART", name)
        postgres.execute("ALTER TABLE note DISABLE TRIGGER ALL; UPDATE note SET experiment = 77", name)
        postgres.execute("DROP INDEX ix_tag_tag", name)
        problems = "\n".join(problem for result in store.check_file() for problem in result.problems)
        assert "ix_tag_tag" in problems
        postgres.execute("CREATE INDEX ix_tag_tag ON tag (tag)", name)
        problems = "\n".join(problem for result in store.check_file() for problem in result.problems)
        assert "1 rows of note" in problems
        assert "run would be 1" in problems


@pytest.fixture
def tuned(workspace: Workspace) -> Workspace:
    """Return the workspace with a study of 12 trials, and one that is interrupted."""
    with open_store(workspace) as store:
        storage = open_storage(workspace)
        fill(store, store.experiment(1), new_study(storage, store.experiment(1)), 12)
        storage.remove_session()
        storage.engine.dispose()
    with open_study(workspace, "experiment-1-second", {"fold": 0}) as study:
        study.ask().suggest_float("x", 0, 1)
    return workspace


def trials(workspace: Workspace) -> list[object]:
    storage = open_storage(workspace, read_only=True)
    found = [(s.study_name, s.user_attrs, storage.get_all_trials(s._study_id)) for s in storage.get_all_studies()]
    storage.remove_session()
    storage.engine.dispose()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", ["copy", "move"])
def test_studies_follow_the_store(
    tuned: Workspace, target: str, command: str, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trials(tuned)
    assert len(before) == 2
    done = ichx("store", command, target, "--json", cwd=tuned.root)
    assert done.code == 0, done.err
    assert json.loads(done.out)["studies"] == 2
    new = using(tuned, target, monkeypatch)
    assert studies_url(new) != studies_url(tuned)
    assert trials(new) == before
    assert study_names(new, 1) == ["", "second"]
    shown = ichx("tune", "show", "1", "--study", "", "--json", cwd=tuned.root)
    assert (shown.code, len(json.loads(shown.out)["trials"])) == (0, 12)
    with open_study(new, "experiment-1-second", {"fold": 0}) as study:
        assert study.ask().number == 1, "the sequence of trials continues"


@pytest.mark.slow
def test_a_backup_brings_everything_back(
    tuned: Workspace, place: Place, tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trials(tuned)
    with open_store(tuned) as store:
        records = content(store)
    backup = tmp_path / "copies" / "backup.db"
    assert ichx("store", "backup", backup, cwd=tuned.root).code == 0
    assert {path.name for path in backup.parent.iterdir()} == {"backup.db", "backup.tuning.db"}
    assert ichx("store", "backup", backup, "--json", cwd=tuned.root).code != 0, "it exists"
    url = place()
    monkeypatch.setenv("ICHX_STORE", str(backup))
    assert ichx("store", "copy", url, cwd=tuned.root).code == 0
    new = using(tuned, url, monkeypatch)
    assert trials(new) == before
    with open_store(new) as store:
        assert content(store) == records


def test_a_backup_of_a_server_is_complete_or_absent(
    postgres: PostgresServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store(postgres()) as store:
        fill_store(store)

        def fail(*_arguments: object) -> None:
            raise StoreError("killed", "")

        with monkeypatch.context() as patch:
            patch.setattr("ichx.store.copying.copy_tables", fail)
            with pytest.raises(StoreError, match="killed"):
                store.back_up(tmp_path / "b.db")
        assert list(tmp_path.iterdir()) == []
        assert store.back_up(tmp_path / "b.db") == (tmp_path / "b.db").stat().st_size
        with Store(str(tmp_path / "b.db")) as copy:
            assert content(copy) == content(store)


def test_studies_of_an_older_version_are_adopted_by_the_server(
    postgres: PostgresServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, they were in db/tuning.db even if the store was on a server."""
    workspace = init_workspace(tmp_path)
    with open_study(workspace, "experiment-1", {"fold": 0}) as study:
        study.ask()
    before = trials(workspace)
    on_server = using(workspace, postgres(), monkeypatch)
    open_store(on_server).close()
    assert study_names(on_server, 1) == [""]
    assert trials(on_server) == before
    with open_study(on_server, "experiment-2", {"fold": 0}):
        pass
    assert [name for name, _, _ in trials(on_server)] == ["experiment-1", "experiment-2"]  # type: ignore[misc]
    with open_store(on_server) as store:  # the tables of Optuna do not make it a foreign database
        assert store.datasets() == []
