"""`ichx run` with several experiments and jobs: processes, logs, the table, signals."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import SHORT, Program
from running_programs import start_ichx, wait_until

from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.process_identity import is_process_alive, process_identity
from ichx.project import Project
from ichx.store import EpochRecord, Run, Store, open_store
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

TIMES = {"seconds", "images_per_second", "memory_gb"}
ENOUGH = 900.0


def register(root: Path, *settings: str) -> int:
    with open_store(open_workspace(root)) as store:
        made = new_experiment(
            store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings])
        )
        return made.number


def without_times(records: list[EpochRecord]) -> list[tuple[object, ...]]:
    return [(r.stage, r.epoch, {name: value for name, value in r.values.items() if name not in TIMES}) for r in records]


def outcome(root: Path, number: int) -> tuple[object, ...]:
    """Return the results of a training: the bytes of weights and predictions, the history, the scores."""
    with open_store(open_workspace(root)) as store:
        folder = root / "experiments" / str(number) / "fold-0"
        files = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
        tensors = read_weights(folder / "weights.safetensors")  # the order in the file's header varies
        weights = {name: tensor.numpy().tobytes() for name, tensor in sorted(tensors.items())}
        experiment = store.experiment(number)
        scores = [experiment.score, experiment.score_tta, experiment.spread]
        return files, weights, without_times(store.history(number, 0)), scores


def test_folds_in_parallel_end_as_one_after_another_and_failures_are_reported(
    dataset_root: Path, tmp_path: Path, ichx_process: Program
) -> None:
    serial, parallel = (Path(shutil.copytree(dataset_root, tmp_path / name)) for name in ("serial", "parallel"))
    for root in (serial, parallel):
        assert [register(root), register(root, "precision=fp16"), register(root, "seed=5")] == [1, 2, 3]
    done = ichx_process("run", 1, 2, 3, "--fold", 0, "--jobs", 2, "--device", "cpu", cwd=parallel)
    assert done.code == 1, done.err
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in done.out.splitlines() if line.startswith("│")]
    assert rows == [["1", "0", "done"], ["2", "0", "failed"], ["3", "0", "done"]]
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert all(
        value in warning for value in ("experiment 2, fold 0", "exit code 1", "fp16", "experiments/2/fold-0/run.log")
    )
    assert re.search("3 folds .*2 .*1 CPU thread", done.err)
    assert "Traceback" not in done.err
    assert re.search(r"fold 0 .*0\.\d{5}", (parallel / "experiments/1/fold-0/run.log").read_text())

    workspace = open_workspace(serial)
    with open_store(workspace) as store:
        for number in (1, 3):
            run_experiment(Project(workspace, store, load_registry()), number, folds=[0])
    for number in (1, 3):
        assert outcome(parallel, number) == outcome(serial, number)

    again = ichx_process("run", 3, 1, "--fold", 0, "--json", cwd=parallel)
    assert again.code == 0
    report = json.loads(again.out)
    assert [(unit["experiment"], unit["state"]) for unit in report["units"]] == [
        (3, "already done"),
        (1, "already done"),
    ]
    assert [pooled["experiment"] for pooled in report["experiments"]] == [3, 1]


def running(store: Store, number: int) -> list[Run]:
    """Return the live runs that have finished an epoch."""
    return [run for run in store.runs(number) if run.state == "running" and run.epochs_done]


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_no_job_outlives_its_launch(how: str, dataset_copy: Path) -> None:
    number = register(dataset_copy, "stage.balanced.epochs=2000", "stage.balanced.milestones=[]")
    with open_store(open_workspace(dataset_copy)) as store:
        launched = start_ichx("run", number, "--jobs", 2, "--device", "cpu", cwd=dataset_copy)
        wait_until(lambda: len(running(store, number)) == 2, launched)
        jobs = [(run.pid, process_identity(run.pid)) for run in running(store, number)]
        assert len({pid for pid, _ in jobs} - {launched.pid}) == 2
        assert all(is_process_alive(pid, mark) for pid, mark in jobs)
        launched.send_signal(getattr(signal, how))
        out, err = launched.communicate(timeout=ENOUGH)
        wait_until(lambda: not any(is_process_alive(pid, mark) for pid, mark in jobs))
        assert not any(run.state == "running" for run in store.runs(number))
    for fold in (0, 1):
        assert list((dataset_copy / f"experiments/{number}/fold-{fold}").glob("checkpoint-*.pt"))
    if how == "SIGKILL":
        return
    assert launched.returncode == 130
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [[str(number), "0", "stopped"], [str(number), "1", "stopped"]]
    assert "2 folds" in err
    assert "Traceback" not in err
