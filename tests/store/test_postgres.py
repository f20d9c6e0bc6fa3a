"""The contract of the store on PostgreSQL."""

import pytest
from postgres_server import PostgresServer, postgres  # noqa: F401  # a fixture
from running_programs import wait_until

from ichx.store import Store
from ichx.store.testing import StoreContract, experiment_draft, run_draft, version_draft


@pytest.mark.slow
class TestPostgresStore(StoreContract):
    @pytest.fixture
    def url(self, postgres: PostgresServer) -> str:  # noqa: F811
        return postgres()


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
