"""Several processes on one fold: the batches, gradients and predictions of one process, and one end for all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program, clean_environment
from running_programs import start_ichx, wait_until
from safetensors.torch import load_file

from ichx.datasets.add import AddRequest, add_dataset
from ichx.errors import IchxError, UnsupportedError
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.distributed import AgreedError
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

SETTINGS = (
    "batch=5",  # which two processes share unevenly
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)

LEARN = """
import sys
import torch
from ichx.recipe_text import from_toml
from ichx.training.distributed import end_process, join_group
from ichx.training.device import Hardware
from ichx.training.feed import SliceInputs
from ichx.training.learner import Learner
from ichx.training.runtime import Runtime
from ichx.training.window_step import WindowStep

generator = torch.Generator().manual_seed(1)
hu = torch.randint(-1000, 1000, (3, 5, 4, 4), generator=generator, dtype=torch.int16)
labels = (torch.rand((3, 5, 6), generator=generator) < 0.5).float()
with join_group(torch.device("cpu")) as group:
    recipe = from_toml(open("recipe.toml").read())
    runtime = Runtime(Hardware(torch.device("cpu"), "fp32", "a test"), group)
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
    learner = Learner(recipe, 0, network, runtime, print)
    losses = []
    for number in range(3):
        own = torch.arange(5).tensor_split(group.size)[group.rank]
        windows = torch.tensor([[40.0, 80.0]]).expand(len(own), 2)
        inputs = SliceInputs(WindowStep(recipe.input)(hu[number, own], windows), labels[number, own])
        loss = learner.step(inputs, 0, number, 3, len(own) / 5 * group.size)
        losses.append(sum(group.gather(loss.item() * len(own) / 5)))
    if group.leads:
        torch.save({"losses": torch.tensor(losses), **learner.network.state_dict()}, sys.argv[1])
end_process()
"""


ENDLESS = ("stage.balanced.epochs=2000", "stage.balanced.milestones=[]")


@pytest.fixture
def registered(dataset_copy: Path, request: pytest.FixtureRequest) -> Path:
    """Return a workspace with an experiment; a parameter of the fixture adds settings."""
    settings = (*SETTINGS, *getattr(request, "param", ()))
    with open_store(open_workspace(dataset_copy)) as store:
        new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=settings))
    return dataset_copy


def start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    return start_ichx("run", 1, "--fold", 0, "--device", "cpu", "--checkpoint-every", "0.1s", *arguments, cwd=root)


def started_by(pid: int) -> list[int]:
    """Return the processes that process `pid` has started, oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(folder.name))
    return sorted(found)


def has_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def state(root: Path) -> str:
    with open_store(open_workspace(root)) as store:
        return store.runs(1)[-1].state


def test_the_gradient_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Of five slices, two processes take three and two, three take two, two and one."""
    plugin = load_registry().get("tiny_resnet")
    from ichx.recipe_text import to_toml

    (tmp_path / "recipe.toml").write_text(to_toml(plugin.recipe))
    found = {}
    for size in (1, 2, 3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        file = tmp_path / f"{size}.pt"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", LEARN, str(file)],
                cwd=tmp_path,
                env=clean_environment(RANK=str(rank), LOCAL_RANK=str(rank), **address),
            )
            for rank in range(size)
        ]
        assert [process.wait(900) for process in processes] == [0] * size
        found[size] = torch.load(file, weights_only=True)
    for size in (2, 3):
        for name, expected in found[1].items():
            torch.testing.assert_close(found[size][name], expected, rtol=1e-5, atol=1e-6)


def test_predictions_do_not_depend_on_the_number_of_processes(
    trained_copy: Path, phantom: PhantomFiles, ichx_process: Program
) -> None:
    """The training files as a test set: four whole batches and a ragged one, dealt to one, two and three."""
    predicted = []
    for size in (1, 2, 3):
        with open_store(open_workspace(trained_copy)) as store:
            add_dataset(
                Project(open_workspace(trained_copy), store), AddRequest(f"late-{size}", phantom.train, test_of="ph")
            )
        done = ichx_process("run", 1, "--fold", 0, "--device", "cpu", "--processes", size, cwd=trained_copy)
        assert done.code == 0, done.err
        folder = trained_copy / "experiments" / "1" / "fold-0"
        predicted.append(
            [read_predictions(folder / f"test-late-{size}-v1-{view}.parquet") for view in ("identity", "hflip")]
        )
    for others in predicted[1:]:
        for one, other in zip(predicted[0], others, strict=True):
            assert one.slice_ids.tolist() == other.slice_ids.tolist()
            np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize("registered", [("stage.full.epochs=5",)], indirect=True)
def test_a_stopped_run_resumes_with_another_number_of_processes(registered: Path, ichx_process: Program) -> None:
    folder = registered / "experiments" / "1" / "fold-0"
    process = start(registered, "--processes", "2")
    wait_until(lambda: any(folder.glob("checkpoint-*.pt")), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 143, err
    assert out == ""
    assert err.count("Resume with `ichx run 1`") == 1
    assert "Traceback" not in err
    assert "Error" not in err
    assert state(registered) == "stopped"
    resumed = ichx_process("run", 1, "--fold", 0, "--device", "cpu", cwd=registered)
    assert resumed.code == 0, resumed.err
    assert "  from: checkpoint after epoch" in resumed.err
    with open_store(open_workspace(registered)) as store:
        history = store.history(1, 0)
        assert [(record.stage, record.epoch) for record in history] == [
            ("balanced", 1),
            ("rebalanced", 1),
            *(("full", epoch) for epoch in range(1, 6)),
        ]
        assert all(record.values["images"] % 5 == 0 for record in history)


@pytest.mark.parametrize(
    "registered",
    [
        ("stage.full.epochs=4", "swa.epochs=3", "accumulate=2"),
        ("stage.full.epochs=4", "prediction.average_last=3", "accumulate=2"),
    ],
    indirect=True,
    ids=["swa", "mean"],
)
def test_averages_over_epochs_resume_to_the_same_bits(registered: Path, ichx_process: Program, tmp_path: Path) -> None:
    """Two processes, stopped in the last stage and resumed, against two that were not stopped."""
    whole = tmp_path / "whole"
    shutil.copytree(registered, whole)
    command = ("run", 1, "--fold", 0, "--device", "cpu", "--processes", 2)
    done = ichx_process(*command, cwd=whole)
    assert done.code == 0, done.err
    folder = registered / "experiments" / "1" / "fold-0"
    process = start(registered, "--processes", "2")
    wait_until(lambda: any(folder.glob("checkpoint-002-00002-*.pt")), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)
    done = ichx_process(*command, cwd=registered)
    assert done.code == 0, done.err
    first, second = (
        load_file(root / "experiments" / "1" / "fold-0" / "weights.safetensors") for root in (whole, registered)
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("registered", [ENDLESS], indirect=True)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_group(registered: Path, victim: int) -> None:
    folder = registered / "experiments" / "1" / "fold-0"
    process = start(registered, "--processes", "2")
    wait_until(lambda: any(folder.glob("checkpoint-*.pt")), process)
    children = started_by(process.pid)
    assert len(children) == 2
    os.kill(children[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=900)
    assert process.returncode in (1, 128 + signal.SIGKILL), err
    assert f"process {victim} was ended by SIGKILL" in err
    assert "Traceback" not in err
    assert all(map(has_gone, children))
    assert state(registered) == ("dead" if victim == 0 else "failed")


@pytest.mark.parametrize("registered", [ENDLESS], indirect=True)
def test_a_killed_parent_leaves_no_processes(registered: Path, ichx: Program) -> None:
    folder = registered / "experiments" / "1" / "fold-0"
    process = start(registered, "--processes", "2")
    wait_until(lambda: any(folder.glob("checkpoint-*.pt")), process)
    children = started_by(process.pid)
    process.kill()
    process.communicate(timeout=900)
    wait_until(lambda: all(map(has_gone, children)))
    assert state(registered) == "stopped"


def test_torchrun_starts_several_processes(registered: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    done = subprocess.run(
        [*torchrun, "--standalone", "-m", "ichx", "run", "1", "--fold", "0", "--device", "cpu", "--json"],
        cwd=registered,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"experiment": 1') == 1, "the first process alone reports"
    assert done.stderr.count("fold 0 done: OOF score") == 1
    with open_store(open_workspace(registered)) as store:
        assert [run.state for run in store.runs(1)] == ["done"]


@pytest.mark.parametrize(("rank", "error"), [("0", UnsupportedError), ("1", AgreedError)])
def test_more_processes_than_gpus_are_refused(
    registered: Path, monkeypatch: pytest.MonkeyPatch, rank: str, error: type[IchxError]
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    workspace = open_workspace(registered)
    with open_store(workspace) as store, pytest.raises(IchxError, match=r"\b2\b.*\b1\b") as caught:
        run_experiment(Project(workspace, store, load_registry()), 1)
    assert type(caught.value) is error, "only one process of a machine reports it"
