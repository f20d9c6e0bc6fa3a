"""Runs logged to MLflow and TensorBoard: the real libraries, with a database and event files on disk."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SHORT, Program, clean_environment

from ichx.errors import InvalidInputError
from ichx.experiments.callbacks import CallbackList, RunCallbacks
from ichx.experiments.loggers import attach
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import open_store
from ichx.training.callbacks import EpochResult
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

RUN = ("run", "1", "--fold", "0", "--device", "cpu")

WITHOUT_LIBRARIES = """
import sys
sys.modules["mlflow"] = sys.modules["tensorboard"] = sys.modules["torch.utils.tensorboard"] = None
from ichx.cli.app import main
main()
"""


@pytest.fixture
def root(dataset_copy: Path) -> Path:
    """Return a workspace with experiment 1, which has not run."""
    with open_store(open_workspace(dataset_copy)) as store:
        new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    return dataset_copy


def test_both_get_the_recipe_and_every_epoch(
    root: Path, ichx_process: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    database = f"sqlite:///{root / 'mlflow.db'}"
    (root / "ichx.toml").write_text(f'tensorboard = true\nmlflow = "{database}"\n')
    done = ichx_process(*RUN, cwd=root)
    assert done.code == 0, done.err
    with open_store(open_workspace(root)) as store:
        experiment, history = store.experiment(1), store.history(1, 0)
        (score,) = [p.score for p in store.predictions(1, role="oof", view="identity")]
    expected = {(f"{r.stage}/{name}", r.epoch): value for r in history for name, value in r.values.items()}
    assert len(expected) > 20

    client = mlflow.MlflowClient(tracking_uri=database)
    group = client.get_experiment_by_name(root.name)
    (run,) = client.search_runs([group.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["ichx.recipe_digest"] == experiment.recipe_digest
    assert experiment.name in run.info.run_name
    assert (run.data.params["plugin"], run.data.params["stage.full.epochs"]) == ('"tiny_resnet"', "1")
    assert run.data.metrics["oof_score"] == score
    logged = {
        (m.key, m.step): m.value for name, _ in expected for m in client.get_metric_history(run.info.run_id, name)
    }
    assert logged == expected

    events = accumulator.EventAccumulator(str(root / "tensorboard" / "1" / "fold-0"))
    events.Reload()
    scalars = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert scalars == pytest.approx(expected | {("oof_score", 0): score}, rel=1e-6)
    (text,) = events.Tensors("recipe/text_summary")
    assert b"plugin = " in text.tensor_proto.string_val[0]


def test_a_server_that_is_away_costs_one_note(
    root: Path, ichx_process: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (root / "ichx.toml").write_text('mlflow = "http://127.0.0.1:9"\n')
    done = ichx_process(*RUN, cwd=root)
    assert done.code == 0, done.err
    notes = [line for line in done.err.splitlines() if line.startswith("note: mlflow")]
    assert len(notes) == 1, done.err


def test_missing_packages_cost_one_note_each(root: Path) -> None:
    (root / "ichx.toml").write_text('tensorboard = "boards"\nmlflow = "http://127.0.0.1:9"\n')
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARIES, *RUN],
        cwd=root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for name in ("mlflow", "tensorboard"):
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"note: {name}")]
        assert f"pip install 'ichx[{name}]'" in line
    assert not (root / "boards").exists()


def test_a_slow_server_does_not_delay_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "FLUSH_SECONDS", 0.05)

    class Slow(RunCallbacks):
        label = "a server"

        def epoch_ended(self, result: EpochResult) -> None:
            time.sleep(60)

    class Notes(RunCallbacks):
        notes: tuple[str, ...] = ()

        def note(self, message: str) -> None:
            self.notes += (message,)

    notes = Notes()
    callbacks = CallbackList(notes, attach.BackgroundLogger(Slow()))
    callbacks.epoch_ended(EpochResult(stage="full", stage_index=0, epoch=1, values={}))
    callbacks.close()
    (note,) = notes.notes
    assert note.startswith("a server ")


def test_settings_choose_the_loggers(tmp_path: Path) -> None:
    for text, mlflow, board in (
        ("", None, None),
        ("tensorboard = false", None, None),
        ("tensorboard = true", None, tmp_path / "tensorboard"),
        ('tensorboard = "a/b"\nmlflow = "http://host:5000"', "http://host:5000", tmp_path / "a" / "b"),
    ):
        (tmp_path / "ichx.toml").write_text(text)
        workspace = open_workspace(tmp_path)
        assert (workspace.mlflow, workspace.tensorboard) == (mlflow, board)
    for name, wrong in (("tensorboard", "tensorboard = 3"), ("mlflow", "mlflow = true")):
        (tmp_path / "ichx.toml").write_text(wrong)
        with pytest.raises(InvalidInputError, match=name):
            open_workspace(tmp_path)
