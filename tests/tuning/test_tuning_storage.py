"""Studies in their file: resumed with the same values, locked, with one setup."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args

import optuna
import pytest
from conftest import Program
from optuna.trial import TrialState

from ichx.errors import ConflictError, StoreError
from ichx.tuning import database_path
from ichx.tuning.sampling import Sampler, create_sampler
from ichx.tuning.storage import open_study, reopen
from ichx.workspace import Workspace, init_workspace

SETUP = {"search space": ["batch=2..64"], "recipe": "r1"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path)


def values(workspace: Workspace, name: str, trials: int, sampler: str, *, interrupted: bool) -> list[tuple[float, int]]:
    """Return the values of `trials` trials; an `interrupted` study loses each once, after its first value."""
    found = []
    for number in range(trials):
        with open_study(workspace, name, SETUP, sampler=create_sampler(sampler, seed=7)) as study:
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            if not interrupted:
                found.append((x, trial.suggest_int("n", 1, 1000)))
                study.tell(trial.number, x**2)
        if interrupted:
            with open_study(workspace, name, SETUP, sampler=create_sampler(sampler, seed=7)) as study:
                (lost,) = study.get_trials(states=(TrialState.RUNNING,))
                resumed = reopen(study, lost.number)
                assert (resumed.number, resumed.suggest_float("x", 0, 1)) == (number, x)
                found.append((x, resumed.suggest_int("n", 1, 1000)))
                study.tell(resumed.number, x**2)
    return found


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_an_interrupted_study_suggests_the_same_values(workspace: Workspace, sampler: str) -> None:
    complete = values(workspace, "complete", 14, sampler, interrupted=False)
    assert values(workspace, "interrupted", 14, sampler, interrupted=True) == complete
    assert len(set(complete[:10])) == 10  # later ones may repeat the optimum


def test_another_setup_is_an_error(workspace: Workspace) -> None:
    with open_study(workspace, "study", SETUP):
        pass
    with (
        pytest.raises(ConflictError, match=r"batch: 2\.\.64, .*2\.\.32"),
        open_study(workspace, "study", {**SETUP, "search space": ["batch=2..32"]}),
    ):
        pass
    with open_study(workspace, "another", {**SETUP, "recipe": "r2"}), open_study(workspace, "study", SETUP) as study:
        assert study.study_name == "study"


def test_one_process_at_a_time_opens_a_study(workspace: Workspace) -> None:
    with (
        open_study(workspace, "study", SETUP),
        pytest.raises(ConflictError, match="study"),
        open_study(workspace, "study", SETUP),
    ):
        pass
    with open_study(workspace, "study", SETUP):
        pass


def test_a_file_that_is_not_a_database(workspace: Workspace) -> None:
    database_path(workspace).write_bytes(b"not a database " * 100)
    with pytest.raises(StoreError, match=r"tuning\.db: .*not a database"), open_study(workspace, "study", SETUP):
        pass


def test_studies_that_start_together_share_a_new_file(workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from ichx.tuning.storage import open_study\n"
        "from ichx.workspace import open_workspace; print('ready', flush=True); sys.stdin.readline()\n"
        "with open_study(open_workspace(Path(sys.argv[1])), sys.argv[2], {}) as study: study.ask()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(workspace.root), f"study-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors


def test_a_process_killed_while_writing_leaves_a_readable_file(workspace: Workspace) -> None:
    with open_study(workspace, "study", SETUP) as study:
        study.tell(study.ask().number, 0.5)
    path = database_path(workspace)
    code = (
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN IMMEDIATE')\n"  # so that not all pages stay in memory
        "c.execute('CREATE TABLE half (value TEXT)')\n"
        "c.executemany('INSERT INTO half VALUES (?)', [('x' * 1000,)] * 1000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:  # as tune show reads
        assert connection.execute("SELECT value FROM trial_values").fetchall() == [(0.5,)]


def test_optuna_is_quiet_and_keeps_its_settings(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    values(workspace, "study", 2, "tpe", interrupted=False)
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_and_a_damaged_file_are_errors(workspace: Workspace) -> None:
    def fill() -> None:
        with open_study(workspace, "study", SETUP) as study:
            with contextlib.closing(study._storage._backend.engine.raw_connection()) as pooled:  # type: ignore[attr-defined]
                pooled.execute("PRAGMA max_page_count = 1")
            for number in range(200):
                study.set_user_attr(f"a{number}", "x" * 2000)

    with pytest.raises(StoreError, match=r"tuning\.db: database or disk is full"):
        fill()
    path = database_path(workspace)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)
    with (
        pytest.raises(StoreError, match=r"tuning\.db: .*malformed"),
        open_study(workspace, "study", SETUP),
    ):
        pass


@pytest.mark.parametrize("name", ["head%20ct", "q?a", "q#a"])
def test_the_file_is_in_its_workspace_whatever_the_folder_is_called(tmp_path: Path, name: str, ichx: Program) -> None:
    workspace = init_workspace(tmp_path / name)
    with open_study(workspace, "study", SETUP) as study:
        study.ask()
    assert ichx("store", "backup", tmp_path / "copy.db", cwd=workspace.root).code == 0
    for file in (database_path(workspace), tmp_path / "copy.tuning.db"):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)
    assert {path.name for path in tmp_path.iterdir()} == {name, "copy.db", "copy.tuning.db"}
