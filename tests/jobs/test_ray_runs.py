"""Folds on a real Ray cluster on this machine, by the commands of a user."""

import json
from pathlib import Path

import pytest
from conftest import SHORT, Program
from local_ray import local_ray, why_ray_is_absent
from running_programs import wait_until
from safetensors.numpy import load_file

from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import Run, open_store
from ichx.workspace import open_workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_ray_is_absent() is not None, reason=str(why_ray_is_absent())),
]

EPOCHS = 100
"""More than a process can train before it notices that its cluster is gone."""


def register(root: Path) -> int:
    settings = [*SHORT, f"stage.balanced.epochs={EPOCHS}", "stage.balanced.milestones=[]"]
    with open_store(open_workspace(root)) as store:
        request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=settings)
        return new_experiment(store, load_registry(), request).number


def runs(root: Path, number: int) -> list[Run]:
    with open_store(open_workspace(root)) as store:
        return store.runs(number)


def test_a_fold_of_a_lost_cluster_resumes_to_the_weights_of_a_local_run(
    dataset_copy: Path, ichx_process: Program
) -> None:
    def jobs() -> list[tuple[str, str]]:
        done = ichx_process("jobs", "--json", cwd=dataset_copy)
        assert done.code == 0, done.err
        return sorted((job["handle"], job["state"]) for job in json.loads(done.out))

    number, twin = register(dataset_copy), register(dataset_copy)
    with local_ray() as cluster:
        with (dataset_copy / "ichx.toml").open("a") as settings:
            settings.write(f'\n[engine.ray]\naddress = "{cluster.url}"\n')
        submitted = ichx_process("run", number, "--on", "ray", "--device", "cpu", "--detach", cwd=dataset_copy)
        assert submitted.code == 0, submitted.err
        wait_until(lambda: sum(bool(run.epochs_done) for run in runs(dataset_copy, number)) == 2)
        handles = sorted(str(run.job) for run in runs(dataset_copy, number))
        assert jobs() == [(handle, "running") for handle in handles]
        cluster.kill()
    assert jobs() == [(handle, "running") for handle in handles]  # it may be the network
    assert cluster.url in ichx_process("jobs", cwd=dataset_copy).err
    wait_until(lambda: all(run.state != "running" for run in runs(dataset_copy, number)))
    with local_ray(int(cluster.url.rpartition(":")[2])):
        assert jobs() == [(handle, "lost") for handle in handles]
        done = ichx_process("run", number, "--on", "ray", "--device", "cpu", cwd=dataset_copy)
        assert done.code == 0, done.err
        assert sorted(state for _, state in jobs()) == ["done", "done", "lost", "lost"]
        checked = ichx_process("engine", "check", "ray", "--json", cwd=dataset_copy)
        assert [check["problem"] for check in json.loads(checked.out)] == [None] * len(json.loads(checked.out))
    checked = ichx_process("engine", "check", "ray", "--json", cwd=dataset_copy)
    assert checked.code == 1
    assert cluster.url in json.loads(checked.out)[-1]["problem"]
    assert ichx_process("run", twin, "--fold", 0, "--device", "cpu", cwd=dataset_copy).code == 0
    files = [dataset_copy / f"experiments/{n}/fold-0/weights.safetensors" for n in (number, twin)]
    resumed, local = ({name: array.tobytes() for name, array in load_file(file).items()} for file in files)
    assert resumed == local
