"""Several nodes on one fold. A script instead of srun starts the processes of the second node on this machine."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from running_programs import start_ichx, wait_until

from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import open_store
from ichx.training.spawn import Node
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

SETTINGS = (
    "batch=5",  # which two processes share unevenly
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=2",
    "model.dropout=0.2",
    "precision=fp32",
)
SRUN = f"""#!{sys.executable}
import os, sys
from pathlib import Path
options = [word for word in sys.argv[1:] if word.startswith("--")][:5]
assert {{"--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--relative=1"}} <= set(options), options
command = sys.argv[1 + len(options):]
Path(os.environ["SECOND_NODE"]).write_text(str(os.getpid()))
os.environ["SLURM_PROCID"] = "0"
os.execv(command[0], command)
"""


@pytest.fixture
def allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that this test is a Slurm job with two nodes; return the file with the process of the second one."""
    script = tmp_path / "bin" / "srun"
    script.parent.mkdir()
    script.write_text(SRUN)
    script.chmod(0o755)
    second = tmp_path / "second-node"
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SECOND_NODE", str(second))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return second


@pytest.fixture
def registered(dataset_copy: Path) -> Path:
    """Return a workspace with two equal experiments."""
    with open_store(open_workspace(dataset_copy)) as store:
        for _ in range(2):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    return dataset_copy


def words(number: int, *more: object) -> tuple[object, ...]:
    return ("run", number, "--fold", 0, "--device", "cpu", "--checkpoint-every", "0.1s", *more)


@pytest.mark.slow
@pytest.mark.usefixtures("allocation")
def test_two_nodes_train_as_two_processes_of_one_machine_even_if_stopped(
    registered: Path, ichx_process: Program
) -> None:
    one = ichx_process(*words(1, "--processes", 2), cwd=registered)
    assert one.code == 0, one.err
    folders = [registered / "experiments" / number / "fold-0" for number in "12"]
    process = start_ichx(*words(2, "--nodes", 2), cwd=registered)
    wait_until(lambda: any(folders[1].glob("checkpoint-*.pt")), process)
    process.send_signal(signal.SIGTERM)  # as with `#SBATCH --signal=B:TERM@120`, only on the first node
    out, err = process.communicate(timeout=900)
    assert (process.returncode, out) == (143, ""), err
    assert err.count("Resume with `ichx run 2`") == 1
    assert "Traceback" not in err
    resumed = ichx_process(*words(2, "--nodes", 2, "--json"), cwd=registered)
    assert resumed.code == 0, resumed.err
    assert "  from: checkpoint after epoch" in resumed.err
    assert resumed.out.count('"experiment": 2') == 1, "the first process alone reports"
    first, second = (read_weights(folder / "weights.safetensors") for folder in folders)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    oof = [read_predictions(folder / "oof-identity.parquet").logits for folder in folders]
    np.testing.assert_array_equal(*oof)
    with open_store(open_workspace(registered)) as store:
        assert [run.state for run in store.runs(2)] == ["stopped", "done"]


@pytest.mark.slow
def test_a_lost_node_ends_the_run(registered: Path, allocation: Path, ichx_process: Program) -> None:
    folder = registered / "experiments" / "1" / "fold-0"
    process = start_ichx(*words(1, "--nodes", 2), cwd=registered)
    wait_until(lambda: any(folder.glob("checkpoint-*.pt")), process)
    os.kill(int(allocation.read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGKILL, err
    assert "Traceback" not in err
    assert "srun was ended by SIGKILL" in err
    assert ichx_process(*words(1, "--nodes", 2), cwd=registered).code == 0


@pytest.mark.parametrize("nodes", [None, "3"])
def test_a_run_on_nodes_needs_a_slurm_job_with_as_many(
    registered: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch, nodes: str | None
) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    if nodes is not None:
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
    refused = ichx(*words(1, "--nodes", 2, "--json"), cwd=registered)
    assert refused.code == 1
    assert '"code": "invalid_input"' in refused.err
    assert "on 2 nodes" in refused.err
    assert ("3" if nodes else "this process is in none") in refused.err
    with open_store(open_workspace(registered)) as store:
        assert store.runs(1) == []


def test_a_slurm_job_without_srun_is_refused(
    registered: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = ichx(*words(1, "--nodes", 2, "--json"), cwd=registered)
    assert refused.code == 1
    assert "srun" in refused.err
    with open_store(open_workspace(registered)) as store:
        assert store.runs(1) == []


@pytest.mark.parametrize(
    ("variables", "threads"),
    [({"OMP_NUM_THREADS": "8", "SLURM_CPUS_PER_TASK": "8"}, "2"), ({"OMP_NUM_THREADS": "3"}, "3")],
)
def test_processes_share_the_cores_of_a_slurm_job(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], threads: str
) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    started = Node(rank=1, nodes=2, processes=4, host="node1", port=1234).environment(local=2)
    assert started["OMP_NUM_THREADS"] == threads
    assert (started["RANK"], started["LOCAL_RANK"], started["WORLD_SIZE"]) == ("6", "2", "8")
    assert (started["MASTER_ADDR"], started["MASTER_PORT"]) == ("node1", "1234")


def test_several_nodes_are_refused_on_ray(registered: Path, ichx: Program) -> None:
    refused = ichx(*words(1, "--nodes", 2, "--on", "ray"), cwd=registered)
    assert refused.code == 2
    assert "--nodes" in refused.err
