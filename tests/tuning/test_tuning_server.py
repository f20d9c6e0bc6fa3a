"""Trainings and tunings with a store on a PostgreSQL server that restarts meanwhile; studies on a server."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import SHORT, Program, clean_environment
from optuna.trial import TrialState
from postgres_server import PostgresServer, own_postgres, postgres  # noqa: F401  # fixtures
from running_programs import wait_until
from safetensors.numpy import load_file
from sqlalchemy import make_url

from ichx.store import Store, open_store
from ichx.tuning.server_storage import send_heartbeat
from ichx.tuning.storage import open_study
from ichx.workspace import Workspace, init_workspace

EPOCHS = 6
LONG = [f"--set={value}" for value in (*SHORT, f"stage.full.epochs={EPOCHS}", "stage.full.milestones=[]")]


def database_name(url: str) -> str:
    return str(make_url(url).database)


@pytest.fixture
def on_server(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a workspace with an empty store on the server."""
    monkeypatch.setenv("ICHX_STORE", postgres())
    workspace = init_workspace(tmp_path)
    open_store(workspace).close()
    return workspace


def weights(root: Path) -> dict[str, bytes]:
    tensors = load_file(root / "experiments" / "1" / "fold-0" / "weights.safetensors")  # its header has a free order
    return {name: values.tobytes() for name, values in tensors.items()}


@pytest.mark.slow
def test_a_training_survives_a_restart_of_the_server(
    own_postgres: PostgresServer,
    dataset_root: Path,
    tmp_path: Path,
    ichx_process: Program,
) -> None:
    roots = [Path(shutil.copytree(dataset_root, tmp_path / name)) for name in ("with", "without")]
    url = own_postgres()
    done = ichx_process("store", "move", url, cwd=roots[0])
    assert done.code == 0, done.err
    for root, environment in zip(roots, ({"ICHX_STORE": url}, {}), strict=True):
        done = ichx_process("exp", "new", "--plugin=tiny_resnet", "--size=32", *LONG, cwd=root, **environment)
        assert done.code == 0, done.err
    assert ichx_process("run", "1", "--fold", "0", cwd=roots[1]).code == 0
    log = tmp_path / "log"
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "ichx", "run", "1", "--fold", "0"],
            cwd=roots[0],
            env=clean_environment(ICHX_STORE=url),
            stdout=handle,
            stderr=handle,
        )
    epochs = "SELECT count(DISTINCT (stage_index, epoch)) FROM epoch_metric"
    wait_until(lambda: own_postgres.execute(epochs, database_name(url))[0][0] > 0, process)
    own_postgres.stop("immediate")
    wait_until(lambda: "Retrying" in log.read_text(), process)
    assert process.poll() is None, log.read_text()
    own_postgres.start()
    assert process.wait(timeout=500) == 0, log.read_text()
    assert weights(roots[0]) == weights(roots[1])
    with Store(url) as store:
        assert [run.state for run in store.runs(1)] == ["done"]
        assert len(store.history(1, 0)) == EPOCHS + 2
        assert len(store.predictions(1, role="oof")) == 2


def test_a_study_on_a_server_repeats_nothing_that_was_committed(
    on_server: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes the connection just after each commit of a change, and the answer is lost."""
    lost: list[str] = []

    def lossy(dialect: Any, connection: Any) -> None:
        raw = connection.dbapi_connection
        changed = raw.execute("SELECT txid_current_if_assigned()").fetchone()[0]
        raw.commit()
        if changed is not None and armed:
            lost.append(str(changed))
            with import_module("psycopg").connect(on_server.store_url.replace("+psycopg", "")) as other:
                other.execute(f"SELECT pg_terminate_backend({raw.info.backend_pid})")
            raw.execute("SELECT 1")  # raises

    armed: list[bool] = []
    with open_study(on_server, "experiment-1", {"fold": 0}) as study:
        engine = study._storage._backend.engine  # type: ignore[attr-defined]
        monkeypatch.setattr(type(engine.dialect), "do_commit", lossy)
        armed.append(True)
        for number in range(3):
            trial = study.ask()
            assert trial.number == number
            trial.suggest_float("x", 0, 1)
            trial.set_user_attr("a", number)
            trial.report(0.5, 1)
            study.tell(trial.number, float(number))
        armed.clear()
        assert len(lost) >= 15
        trials = study.get_trials()
    assert [(t.number, t.state, t.value) for t in trials] == [(n, TrialState.COMPLETE, n) for n in range(3)]
    assert [t.user_attrs for t in trials] == [{"a": n} for n in range(3)]
    assert all(t.intermediate_values == {1: 0.5} for t in trials)


def test_a_running_trial_has_a_heartbeat(on_server: Workspace, postgres: PostgresServer) -> None:
    with open_study(on_server, "experiment-1", {"fold": 0}) as study:
        trial = study.ask()
        send_heartbeat(study, trial)
        send_heartbeat(study, trial)
        assert study.trials[0].state == TrialState.RUNNING
    beats = postgres.execute("SELECT count(*) FROM trial_heartbeats", database_name(on_server.store_url))
    assert beats == [(1,)]


@pytest.mark.slow
def test_studies_that_start_together_share_new_tables(on_server: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from ichx.tuning.storage import open_study\n"
        "from ichx.workspace import open_workspace; print('ready', flush=True); sys.stdin.readline()\n"
        "with open_study(open_workspace(Path(sys.argv[1])), sys.argv[2], {}) as study: study.ask()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(on_server.root), f"study-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    errors = [process.communicate("go\n")[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors


@pytest.mark.slow
def test_a_tuning_survives_a_restart_of_the_server(
    own_postgres: PostgresServer,
    dataset_copy: Path,
    tmp_path: Path,
    ichx_process: Program,
) -> None:
    url = own_postgres()
    environment = {"ICHX_STORE": url}
    assert ichx_process("store", "move", url, cwd=dataset_copy).code == 0
    settings = [f"--set={value}" for value in SHORT]
    done = ichx_process("exp", "new", "--plugin=tiny_resnet", "--size=32", *settings, cwd=dataset_copy, **environment)
    assert done.code == 0, done.err
    log = tmp_path / "log"
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "ichx", "tune", "1", "--trials", "2", "--search=stage.full.lr=log:1e-5..1e-3"],
            cwd=dataset_copy,
            env=clean_environment(**environment),
            stdout=handle,
            stderr=handle,
        )
    started = "SELECT count(*) FROM run"
    wait_until(lambda: own_postgres.execute(started, database_name(url))[0][0] > 0, process)
    own_postgres.stop()
    wait_until(lambda: "Retrying" in log.read_text(), process)
    assert process.poll() is None, log.read_text()
    own_postgres.start()
    assert process.wait(timeout=500) == 0, log.read_text()
    with Store(url) as store:
        runs = [run for trial in store.trials(1) for run in store.runs(trial.number)]
        assert [(run.fold, run.state) for run in runs] == [(0, "done"), (0, "done")]
    states = own_postgres.execute("SELECT number, state::text FROM trials ORDER BY number", database_name(url))
    assert states == [(0, "COMPLETE"), (1, "COMPLETE")]
