"""The store's clock: machines whose clocks differ agree on which runs are live, because a server's clock decides."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import clean_environment
from postgres_server import postgres  # noqa: F401  # a fixture
from sqlalchemy import create_engine, update

from ichx.errors import ConflictError
from ichx.store import Store
from ichx.store.runs import DEAD_AFTER
from ichx.store.tables import run
from ichx.store.testing import experiment_draft, run_draft, version_draft

SHIFTED = """
import datetime, json, sys, time

shift, url, work = float(sys.argv[1]), sys.argv[2], sys.argv[3]
real, real_time = datetime.datetime, time.time

class Shifted(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=shift)

datetime.datetime = Shifted
time.time = lambda: real_time() + shift

from dataclasses import replace
from ichx.errors import ConflictError
from ichx.store import Selection, Store
from ichx.store import copying, database
from ichx.store.testing import run_draft

with Store(url) as store:
    refused = False
    if work == "start":
        run = store.start_run(replace(run_draft(), host="gpu-node-7"))
        store.heartbeat(run.id, stage="full", epoch=1, epochs_done=1)
    elif work == "take":
        try:
            store.start_run(run_draft())
        except ConflictError as error:
            refused = "gpu-node-7" in error.problem
    (found, *_) = store.runs(1)
    idle = True
    try:
        with database.reading(store._engine) as connection:
            copying.check_idle(connection)
    except ConflictError:
        idle = False
    print(json.dumps({
        "state": found.state,
        "listed": store.experiments(limit=1)[0].state,
        "selected": len(store.experiments(Selection(states=("running",)))),
        "seconds": (store.time() - found.heartbeat).total_seconds(),
        "refused": refused,
        "idle": idle,
    }))
"""


def shifted(seconds: int, url: str, work: str) -> dict[str, Any]:
    """Return what a process sees whose clock is ahead by `seconds`."""
    command = [sys.executable, "-c", SHIFTED, str(seconds), url, work]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def url(postgres: Callable[[], str]) -> str:  # noqa: F811
    url = postgres()
    with Store(url) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    return url


@pytest.mark.parametrize("seconds", [-3600, -120, 120, 3600])
def test_a_live_run_is_running_whatever_clock_a_machine_has(url: str, seconds: int) -> None:
    live = {"state": "running", "listed": "running", "selected": 1, "idle": False}
    writer = shifted(seconds, url, "start")
    with Store(url) as store:
        assert store.runs(1)[0].state == "running"
        with pytest.raises(ConflictError, match="gpu-node-7"):
            store.trash([1])
    for found in (writer, shifted(-seconds, url, "take")):
        assert {name: found[name] for name in live} == live
        assert 0 <= found["seconds"] < 60
    assert found["refused"]


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_run_without_heartbeats_is_dead_whatever_clock_a_machine_has(url: str, seconds: int) -> None:
    shifted(seconds, url, "start")
    engine = create_engine(url)
    with engine.begin() as connection, Store(url) as store:
        last = store.time() - DEAD_AFTER - timedelta(seconds=1)
        connection.execute(update(run).values(heartbeat=last))
    engine.dispose()
    found = shifted(seconds, url, "take")
    assert not found["refused"]
    with Store(url) as store:
        first, second = store.runs(1)
        assert (first.state, first.ended, first.host) == ("dead", last, "gpu-node-7")
        assert (second.attempt, second.host) == (2, run_draft().host)
