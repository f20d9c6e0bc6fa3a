"""The contract of the store on PostgreSQL, and moving a store there."""

from pathlib import Path

import pytest
from postgres_server import PostgresServer, postgres  # noqa: F401  # a fixture
from running_programs import wait_until

from ichx.errors import ConflictError
from ichx.store import Store, open_store
from ichx.store.store import move_store
from ichx.store.testing import StoreContract, experiment_draft, run_draft, version_draft
from ichx.workspace import init_workspace


@pytest.mark.slow
class TestPostgresStore(StoreContract):
    @pytest.fixture
    def url(self, postgres: PostgresServer) -> str:  # noqa: F811
        return postgres()


def test_a_store_is_moved_with_all_rows(
    tmp_path: Path,
    postgres: PostgresServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace, url = init_workspace(tmp_path), postgres()
    with open_store(workspace) as store:
        version = store.add_version(version_draft())
        store.add_version(version_draft("hidden", test_of="train"))
        store.add_experiments([experiment_draft(version), experiment_draft(version, parent=1)])
        run = store.start_run(run_draft())
        with pytest.raises(ConflictError, match=str(run.pid)):
            move_store(store, workspace, url)
        store.finish_run(run.id, "done")
        store.add_note(1, "ünïcödé")
        rows, name = move_store(store, workspace, url)
        assert (rows["experiment"], rows["run"], rows["note"], rows["dataset"]) == (2, 1, 1, 2)
        before = [store.experiment(1), store.experiment(2)]
    assert name.startswith("postgresql+psycopg://ichx@")
    with pytest.raises(ConflictError, match="db/ichx.db") as caught:
        open_store(workspace)
    assert name in caught.value.remedy
    monkeypatch.setenv("ICHX_STORE", url)
    with open_store(init_workspace(tmp_path)) as moved:
        assert [moved.experiment(1), moved.experiment(2)] == before
        assert [e.id for e in before] == [moved.experiment(1).id, moved.experiment(2).id]
        assert moved.add_experiments([experiment_draft(version)])[0].number == 3
        assert moved.start_run(run_draft(2)).id > run.id, "the sequence continues"
        assert moved.add_note(2, "more").id == 2
        with pytest.raises(ConflictError, match="records"), Store(f"{tmp_path / 'new.db'}") as other:
            move_store(other, workspace, url)


def test_idle_stores_occupy_no_connection(postgres: PostgresServer) -> None:  # noqa: F811
    """A server has 100 connections by default, and a run writes every 15 seconds."""
    url, psycopg = postgres(), pytest.importorskip("psycopg")
    with Store(url) as store, Store(url) as other:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
        run = store.start_run(run_draft())
        other.heartbeat(run.id)
        counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            wait_until(lambda: connection.execute(counted).fetchone() == (0,))
