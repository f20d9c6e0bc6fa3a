"""Runs followed by MLflow and TensorBoard. Neither is installed for the tests.

Their stand-ins in `tests/stand_ins` take the same calls; the program runs with them in a process of its own.
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import SHORT, Outcome, Program, clean_environment

from ichx.errors import IchxError
from ichx.experiments.callbacks import CallbackList, RunCallbacks
from ichx.experiments.loggers import attach as follow
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import EpochRecord, open_store
from ichx.workspace import open_workspace

STAND_INS = Path(__file__).parents[1] / "stand_ins"
WITH_STAND_INS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import board
sys.modules["torch.utils.tensorboard"] = board
from ichx.cli.app import main
main()
"""


@pytest.fixture
def root(dataset_copy: Path) -> Path:
    """Return a workspace in which experiment 1 waits to be run."""
    with open_store(open_workspace(dataset_copy)) as store:
        new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    return dataset_copy


def run(root: Path, settings: str) -> Outcome:
    """Run fold 0 with the stand-ins."""
    (root / "ichx.toml").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", WITH_STAND_INS, str(STAND_INS), "run", "1", "--fold", "0", "--device", "cpu"],
        cwd=root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_get_the_recipe_and_every_epoch(root: Path) -> None:
    done = run(root, f'tensorboard = true\nmlflow = "{root / "calls"}"\n')
    assert done.code == 0, done.err
    assert "gets nothing more" not in done.err
    with open_store(open_workspace(root)) as store:
        experiment, history = store.experiment(1), store.history(1, 0)
    calls = read(root / "calls")
    (opened,) = [call for call in calls if call["call"] == "create_run"]
    assert opened["run_name"] == f"1 {experiment.name}, fold 0, attempt 1"
    assert opened["tags"]["ichx.recipe_digest"] == experiment.recipe_digest
    params = {key: value for call in calls for key, value in call.get("params", {}).items()}
    assert (params["plugin"], params["stage.full.epochs"]) == ('"tiny_resnet"', "1")
    metrics = {(m["key"], m["step"]): m["value"] for call in calls for m in call.get("metrics", ())}
    wanted = {(f"{r.stage}/{name}", r.epoch): value for r in history for name, value in r.values.items()}
    assert metrics == wanted
    assert [call["call"] for call in calls][-2:] == ["log_metric", "set_terminated"]
    assert calls[-1]["status"] == "FINISHED"

    board = read(root / "tensorboard" / "1" / "fold-0" / "events.jsonl")
    assert {(tag, step): value for kind, tag, value, step in (r for r in board if len(r) == 4)} == wanted | {
        ("oof_score", 0): calls[-2]["value"]
    }
    assert "plugin = " in board[0][2]
    assert board[-1] == ["close"]


def test_a_server_that_is_away_is_one_note(root: Path) -> None:
    done = run(root, 'mlflow = "away://server"\n')
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if "mlflow" in line]
    assert told == ["note: mlflow gets nothing more of this run: ConnectionError: no server at away://server"]


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed here")
@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed here")
def test_packages_that_are_missing_are_a_note_each(root: Path, ichx_process: Program) -> None:
    (root / "ichx.toml").write_text('tensorboard = "boards"\nmlflow = "http://127.0.0.1:9"\n')
    done = ichx_process("run", 1, "--fold", 0, "--device", "cpu", cwd=root)
    assert done.code == 0, done.err
    for name in ("mlflow", "tensorboard"):
        (line,) = [line for line in done.err.splitlines() if f"{name} gets nothing more" in line]
        assert "it cannot be imported" in line
        assert f"pip install 'ichx[{name}]'" in line
    assert not (root / "boards").exists()


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LAST_SECONDS", 0.05)

    class Slow(RunCallbacks):
        label = "a server"

        def epoch_ended(self, record: EpochRecord) -> None:
            time.sleep(60)

    class Notes(RunCallbacks):
        notes: tuple[str, ...] = ()

        def note(self, message: str) -> None:
            self.notes += (message,)

    notes = Notes()
    told = CallbackList(notes, follow.BackgroundLogger(Slow()))
    told.epoch_ended(EpochRecord(stage="full", stage_index=0, epoch=1, values={}))
    told.run_ended()
    (note,) = notes.notes
    assert note.startswith("a server gets nothing more of this run: it has not taken everything")


def test_settings_choose_who_follows(tmp_path: Path) -> None:
    for text, mlflow, board in (
        ("", None, None),
        ("tensorboard = false", None, None),
        ("tensorboard = true", None, tmp_path / "tensorboard"),
        ('tensorboard = "a/b"\nmlflow = "http://host:5000"', "http://host:5000", tmp_path / "a" / "b"),
    ):
        (tmp_path / "ichx.toml").write_text(text)
        workspace = open_workspace(tmp_path)
        assert (workspace.mlflow, workspace.tensorboard) == (mlflow, board)
    for wrong in ("tensorboard = 3", "mlflow = true"):
        (tmp_path / "ichx.toml").write_text(wrong)
        with pytest.raises(IchxError, match="must be"):
            open_workspace(tmp_path)
