"""Studies in their file: resumed with the same values, held, and not mixed up."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ichx.errors import IchxError
from ichx.tuning.sampling import SAMPLERS, make_sampler
from ichx.tuning.storage import open_study, reopen, study_name
from ichx.workspace import Workspace, init_workspace

SETUP = {"search space": ["batch=2..64"], "recipe": "r1"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path)


def values(workspace: Workspace, name: str, trials: int, sampler: str, *, interrupted: bool) -> list[tuple[float, int]]:
    """Return what `trials` trials get; an interrupted study loses each once, after its first value."""
    found = []
    for number in range(trials):
        with open_study(workspace, name, SETUP, sampler=make_sampler(sampler, seed=7)) as study:
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            if not interrupted:
                found.append((x, trial.suggest_int("n", 1, 1000)))
                study.tell(trial.number, x**2)
        if interrupted:
            with open_study(workspace, name, SETUP, sampler=make_sampler(sampler, seed=7)) as study:
                (lost,) = study.get_trials(states=(TrialState.RUNNING,))
                again = reopen(study, lost.number)
                assert (again.number, again.suggest_float("x", 0, 1)) == (number, x)
                found.append((x, again.suggest_int("n", 1, 1000)))
                study.tell(again.number, x**2)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_study_asks_the_same_and_never_repeats_itself(workspace: Workspace, sampler: str) -> None:
    whole = values(workspace, "whole", 14, sampler, interrupted=False)
    assert values(workspace, "broken", 14, sampler, interrupted=True) == whole
    assert len(set(whole[:10])) == 10  # what comes then may be the optimum again


def test_another_setup_is_refused_with_both(workspace: Workspace) -> None:
    with open_study(workspace, "study", SETUP):
        pass
    with (
        pytest.raises(IchxError, match=r"it searches batch=2..64, not 2..32"),
        open_study(workspace, "study", {**SETUP, "search space": ["batch=2..32"]}),
    ):
        pass
    with open_study(workspace, "another", {**SETUP, "recipe": "r2"}), open_study(workspace, "study", SETUP) as study:
        assert study.study_name == "study"


def test_a_study_has_one_tuner(workspace: Workspace) -> None:
    with (
        open_study(workspace, "study", SETUP),
        pytest.raises(IchxError, match="another process is tuning study"),
        open_study(workspace, "study", SETUP),
    ):
        pass
    with open_study(workspace, "study", SETUP):
        pass


def test_a_file_that_is_no_database(workspace: Workspace) -> None:
    (workspace.root / "db" / "tuning.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(IchxError, match=r"tuning.db cannot be used"), open_study(workspace, "study", SETUP):
        pass


def test_studies_that_begin_at_once_share_their_new_file(workspace: Workspace) -> None:
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
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said


def test_a_tuner_killed_while_it_writes_leaves_a_file_to_read(workspace: Workspace) -> None:
    with open_study(workspace, "study", SETUP) as study:
        study.tell(study.ask().number, 0.5)
    path = workspace.root / "db" / "tuning.db"
    code = (
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN IMMEDIATE')\n"  # so that not all of it waits in memory
        "c.execute('CREATE TABLE half (value TEXT)')\n"
        "c.executemany('INSERT INTO half VALUES (?)', [('x' * 1000,)] * 1000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:  # as tune show reads
        assert connection.execute("SELECT value FROM trial_values").fetchall() == [(0.5,)]


def test_optuna_is_quiet_and_left_as_it_was(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    values(workspace, "study", 2, "tpe", interrupted=False)
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_damaged_or_a_disk_that_is_full_is_told(workspace: Workspace) -> None:
    def fill() -> None:
        with open_study(workspace, "study", SETUP) as study:
            with contextlib.closing(study._storage._backend.engine.raw_connection()) as pooled:  # type: ignore[attr-defined]
                pooled.execute("PRAGMA max_page_count = 1")
            for number in range(200):
                study.set_user_attr(f"a{number}", "x" * 2000)

    with pytest.raises(IchxError, match=r"tuning.db cannot be used: database or disk is full") as caught:
        fill()
    assert "the same command goes on" in caught.value.remedy
    path = workspace.root / "db" / "tuning.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)
    with (
        pytest.raises(IchxError, match=r"tuning.db cannot be used: .*malformed"),
        open_study(workspace, "study", SETUP),
    ):
        pass


@pytest.mark.parametrize("name", ["a/b", "../x", "-x", "x" * 65, "a b", " "])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(IchxError, match="is no name"):
        study_name(1, name)
    assert study_name(1, "wide-2.b_c") == "experiment-1-wide-2.b_c"
