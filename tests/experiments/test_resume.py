"""A run that died goes on where it was, and ends at the same weights as one that did not."""

import contextlib
import signal
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from full_disk import run_with_limit
from running_programs import TIMEOUT_SECONDS, start_held

from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import EpochRecord, open_store
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

SETTINGS = (
    "batch=4",
    "stage.balanced.epochs=3",
    "stage.balanced.milestones=[1]",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=2",
    "model.dropout=0.2",
)
EPOCHS = [
    (stage, epoch)
    for stage, epochs in (("balanced", 3), ("rebalanced", 1), ("full", 2))
    for epoch in range(1, epochs + 1)
]


def register(root: Path, *settings: str, size: int | None = None, copies: int = 1) -> None:
    with open_store(open_workspace(root)) as store:
        for _ in range(copies):
            new_experiment(
                store,
                load_registry(),
                ExperimentRequest(plugin="tiny_resnet", size=size, settings=[*SETTINGS, *settings]),
            )


def history(root: Path, number: int = 1) -> list[EpochRecord]:
    with open_store(open_workspace(root)) as store:
        return store.history(number, 0)


def start(root: Path, done: int, *arguments: str) -> "subprocess.Popen[str]":
    """Start a run; return when it has stopped itself after the first step that follows `done` epochs."""
    stage, epoch = EPOCHS[done - 1]
    index = ("balanced", "rebalanced", "full").index(stage)
    checkpoint = root / "experiments" / "1" / "fold-0" / f"checkpoint-{index:03d}-{epoch:05d}-000000000.pt"
    place = "ichx.training.step_sync:StepSync.after_step"
    return start_held(place, checkpoint, "run", 1, "--fold", 0, *arguments, cwd=root)


def test_a_run_killed_within_an_epoch_ends_with_equal_weights(
    dataset_copy: Path, ichx: Program, ichx_process: Program
) -> None:
    register(dataset_copy, copies=2)
    killed = []
    for done in (1, 4):  # within a stage, whose optimizer and scheduler go on; then in the first epoch of one
        process = start(dataset_copy, done)
        before = history(dataset_copy)
        refused = ichx("run", 1, "--fold", 0, cwd=dataset_copy)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert refused.code == 1
        assert f"Fold 0 of experiment 1 has been running in process {process.pid} on " in refused.err
        assert history(dataset_copy) == before
        killed.append(before)
    assert [len(records) for records in killed] == [1, 4]
    assert "dead" in ichx("exp", "list", cwd=dataset_copy).out

    resumed = ichx_process("run", 1, "--fold", 0, cwd=dataset_copy)
    assert resumed.code == 0, resumed.err
    assert f"checkpoint after epoch {len(killed[1])}" in resumed.err
    after = history(dataset_copy)
    assert [(record.stage, record.epoch) for record in after] == EPOCHS
    assert after[: len(killed[1])] == killed[1], "finished epochs are not trained again"
    assert killed[1][: len(killed[0])] == killed[0]
    with open_store(open_workspace(dataset_copy)) as store:
        assert [(run.attempt, run.state) for run in store.runs(1)] == [(1, "dead"), (2, "dead"), (3, "done")]

    assert ichx_process("run", 2, "--fold", 0, cwd=dataset_copy).code == 0
    homes = [dataset_copy / "experiments" / number / "fold-0" for number in ("1", "2")]
    first, second = (read_weights(home / "weights.safetensors") for home in homes)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    for file in ("oof-identity", "oof-hflip", "test-ph-test-v1-identity"):
        one, other = (read_predictions(home / f"{file}.parquet") for home in homes)
        np.testing.assert_array_equal(one.logits, other.logits)
    timing = {"seconds", "images_per_second", "memory_gb"}
    for one, other in zip(after, history(dataset_copy, 2), strict=True):
        assert {k: v for k, v in one.values.items() if k not in timing} == {
            k: v for k, v in other.values.items() if k not in timing
        }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_how_to_resume_and_survives_a_damaged_checkpoint(
    dataset_copy: Path, ichx: Program, number: signal.Signals
) -> None:
    register(dataset_copy)
    process = start(dataset_copy, 2)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Resume with `ichx run 1`" in err
    assert "Traceback" not in err
    with open_store(open_workspace(dataset_copy)) as store:
        assert [run.state for run in store.runs(1)] == ["stopped"]
        assert store.experiment(1).state == "stopped"

    older, newest = sorted((dataset_copy / "experiments" / "1" / "fold-0").glob("checkpoint-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert not newest.name.endswith("-000000000.pt"), "it is within an epoch"
    resumed = ichx("run", 1, "--fold", 0, cwd=dataset_copy)
    assert resumed.code == 0
    assert f"note: {newest.name} is damaged" in resumed.err
    assert "  from: checkpoint after epoch 2; " in resumed.err
    assert f"note: {older.name}" not in resumed.err
    assert [(record.stage, record.epoch) for record in history(dataset_copy)] == EPOCHS


@pytest.mark.parametrize("every", ["0", "0.1s"])
def test_a_full_disk_ends_a_run_with_one_line_and_it_resumes_later(
    dataset_copy: Path, ichx: Program, every: str
) -> None:
    register(dataset_copy, "batch=32", size=32)
    assert ichx("run", 1, "--device", "cuda:77", cwd=dataset_copy).code == 1  # the cache is made before
    command = ("-m", "ichx", "run", "1", "--fold", "0", "--checkpoint-every", every)
    full = run_with_limit(2500, *command, cwd=dataset_copy)  # the weights would fit
    assert full.code == 1
    assert "Traceback" not in full.err
    assert "error: Cannot write the checkpoint" in full.err
    assert ": File too large. There is no earlier checkpoint." in full.err
    assert "Free some space" in full.err
    assert ("-000000000.pt: File" in full.err) == (every == "0"), "the first one is within an epoch, or after it"
    folder = dataset_copy / "experiments" / "1" / "fold-0"
    assert {path.name for path in folder.iterdir()} <= {"run.log", "code.diff"}
    with open_store(open_workspace(dataset_copy)) as store:
        assert [run.state for run in store.runs(1)] == ["failed"]
    assert ichx("run", 1, "--fold", 0, cwd=dataset_copy).code == 0
    assert [(record.stage, record.epoch) for record in history(dataset_copy)] == EPOCHS


def test_a_process_that_lost_its_fold_writes_nothing_more(dataset_copy: Path, ichx: Program) -> None:
    register(dataset_copy, copies=2)
    slept = start(dataset_copy, 2, "--checkpoint-every", "0.1s")
    with contextlib.closing(sqlite3.connect(dataset_copy / "db" / "ichx.db")) as database, database:
        # as after a night, and as another machine sees it: here it is known to live
        database.execute("UPDATE run SET heartbeat = '2026-01-01 00:00:00.000000', host = 'elsewhere'")
    assert ichx("run", 1, "--fold", 0, cwd=dataset_copy).code == 0
    folder = dataset_copy / "experiments" / "1" / "fold-0"

    def files() -> dict[Path, tuple[int, bytes]]:
        """Return the files of the folder except the log, in which each run records how it ended."""
        there = [path for path in folder.iterdir() if path.name != "run.log"]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in there}

    left = files()
    slept.send_signal(signal.SIGCONT)
    _, err = slept.communicate(timeout=TIMEOUT_SECONDS)
    assert slept.returncode == 1
    assert "error: This run of fold 0 of experiment 1 has already ended (dead)" in err
    assert "Another process may have taken over" in err
    assert "note:" not in err
    assert files() == left
    with open_store(open_workspace(dataset_copy)) as store:
        assert [(run.attempt, run.state) for run in store.runs(1)] == [(1, "dead"), (2, "done")]
