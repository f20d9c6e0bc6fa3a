"""`--on` and `ichx jobs` with an engine whose jobs outlive the command."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SHORT, Program
from file_engine import FileEngine

from ichx.errors import UnsupportedError
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs import follow
from ichx.jobs.engine import Resources
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.store import JobChange, JobDraft, open_store
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileEngine]:
    """The scheduler behind `--on slurm`."""
    engine = FileEngine(tmp_path / "queue")

    def open_engine(workspace: Workspace, name: str, slots: int) -> FileEngine:
        return engine

    monkeypatch.setattr("ichx.jobs.engines.open_engine", open_engine)
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.2)
    yield engine
    for job in engine.folder.glob("*/*/job.json"):
        engine.kill(f"file:{job.parent.parent.name}_{job.parent.name}")


def register(root: Path, *settings: str) -> int:
    with open_store(open_workspace(root)) as store:
        request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings])
        return new_experiment(store, load_registry(), request).number


def listed(ichx: Program, root: Path, *arguments: object) -> list[dict[str, object]]:
    done = ichx("jobs", *arguments, "--json", cwd=root)
    assert done.code == 0, done.err
    return json.loads(done.out)  # type: ignore[no-any-return]


def test_submit_list_cancel_and_resume(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number = register(dataset_copy)
    assert listed(ichx, dataset_copy) == []
    (queue.folder / "hold").touch()
    submitted = ichx("run", number, "--on", "slurm", "--device", "cpu", "--detach", "--json", cwd=dataset_copy)
    assert submitted.code == 0, submitted.err
    units = json.loads(submitted.out)["units"]
    assert [(unit["state"], unit["job"].startswith("file:")) for unit in units] == [("queued", True)] * 2
    assert f"ichx jobs cancel {number}" in submitted.err
    assert f"`ichx run {number} --on slurm`" in submitted.err
    one = ichx("run", number, "--fold", 1, "--on", "slurm", "--detach", cwd=dataset_copy)
    assert f"`ichx run {number} --fold 1 --on slurm`" in one.err
    again = ichx("run", number, "--on", "slurm", "--detach", cwd=dataset_copy)
    assert (again.code, len(listed(ichx, dataset_copy))) == (0, 2)
    assert units[0]["job"] in again.out
    assert ichx("exp", "rm", number, cwd=dataset_copy).code == 1

    first = units[0]["job"]
    assert [job["handle"] for job in json.loads(ichx("jobs", "cancel", first, "--json", cwd=dataset_copy).out)] == [
        first
    ]
    assert "--yes" in ichx("jobs", "cancel", number, cwd=dataset_copy).err
    assert [job["state"] for job in listed(ichx, dataset_copy)] == ["queued", "queued"]
    for unknown in ("x\ny", "9" * 5000):
        refused = ichx("jobs", "cancel", unknown, cwd=dataset_copy)
        assert (refused.code, repr(unknown) in refused.err) == (1, True)
    assert ichx("jobs", "cancel", first, "--yes", cwd=dataset_copy).code == 0
    queue.wait(first)
    assert [(job["fold"], job["state"]) for job in listed(ichx, dataset_copy, number)] == [
        (1, "queued"),
        (0, "cancelled"),
    ]
    assert [job["fold"] for job in listed(ichx, dataset_copy, "--state", "cancelled")] == [0]
    shown = ichx("jobs", "show", first, cwd=dataset_copy)
    assert f"experiments/{number}/fold-0/run.log" in shown.out

    (queue.folder / "hold").unlink()
    done = ichx("run", number, "--on", "slurm", "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert [job["state"] for job in listed(ichx, dataset_copy)] == ["done", "done", "cancelled"]
    assert first not in ichx("exp", "show", number, cwd=dataset_copy).err
    assert units[1]["job"] in ichx("exp", "show", number, cwd=dataset_copy).err
    assert ichx("exp", "rm", number, cwd=dataset_copy).code == 0


def test_the_default_engine_is_a_setting_that_jobs_do_not_inherit(
    dataset_copy: Path, queue: FileEngine, ichx: Program
) -> None:
    number = register(dataset_copy)
    (dataset_copy / "ichx.toml").write_text('[engine]\ndefault = "slurm"\n')
    done = ichx("run", number, "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert [(job["fold"], job["state"]) for job in listed(ichx, dataset_copy)] == [(0, "done")]
    here = ichx("run", number, "--fold", 1, "--device", "cpu", "--on", "local", cwd=dataset_copy)
    assert (here.code, len(listed(ichx, dataset_copy))) == (0, 1)


def test_several_gpus_train_one_fold_together(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number = register(dataset_copy)
    (queue.folder / "hold").touch()
    options = ("--on", "slurm", "--detach", "--gpus", 4, "--nodes", 2, "--time", "1-23:30:00", "--memory", "64GB")
    more = ("--cpus", 16, "--engine-option=--exclusive", "--checkpoint-every", "2m", "--fold", 1)
    assert ichx("run", number, *options, *more, cwd=dataset_copy).code == 0
    limits = {"memory": 64_000_000_000, "seconds": 2 * 86400.0 - 1800}
    assert queue.resources == Resources(cpus=16, gpus=4, nodes=2, options=("--exclusive",), **limits)
    (file,) = queue.folder.glob("*/*/job.json")
    given = json.loads(file.read_text())
    assert given["argv"][3:] == [
        *("run", str(number), "--fold", "1", "--device", "auto", "--checkpoint-every", "120s"),
        *("--processes", "4", "--nodes", "2"),
    ]
    assert given["environment"] == {"ICHX_WORKSPACE": str(dataset_copy), "ICHX_ENGINE": "local"}


def test_options_that_do_not_fit_are_refused(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number = register(dataset_copy)
    for arguments, value in (
        (("--gpus", 0), "--gpus"),
        (("--detach",), "--detach"),
        (("--time", "8h", "--memory", "1G"), "--memory, --time"),
        (("--engine-option=--exclusive",), "--engine-option"),
        (("--on", "slurm", "--dry-run"), "--dry-run"),
        (("--on", "slurm", "--time", "soon"), "soon"),
        (("--on", "slurm", "--memory", "much"), "much"),
        (("--on", "pbs"), "pbs"),
    ):
        ichx("run", number, *arguments, "--json", cwd=dataset_copy).check_error("usage", value)
    ichx("jobs", "--state", "asleep", "--json", cwd=dataset_copy).check_error("usage", "asleep")
    assert listed(ichx, dataset_copy) == []


def test_a_refusal_leaves_nothing(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number = register(dataset_copy)
    queue.refusal = "The partition gpu9 is unknown."
    refused = ichx("run", number, "--on", "slurm", "--json", cwd=dataset_copy)
    refused.check_error("conflict", "gpu9")
    assert listed(ichx, dataset_copy) == []
    assert not (dataset_copy / "experiments" / str(number)).exists()


def test_states_are_the_last_known_ones_where_the_scheduler_is_away(
    dataset_copy: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        store.add_jobs([JobDraft("ichx-1", 0, "slurm", "predict", "predict 1 new", "jobs/ichx-1/log")])
        store.set_handles("ichx-1", ["slurm:1_0"])

    def open_engine(workspace: Workspace, name: str, slots: int) -> FileEngine:
        raise UnsupportedError(f"No {name} here.", "Use another machine.")

    monkeypatch.setattr("ichx.jobs.engines.open_engine", open_engine)
    done = ichx("jobs", cwd=dataset_copy)
    assert (done.code, "slurm:1_0" in done.out, "queued" in done.out) == (0, True, True)
    assert "No slurm here." in done.err
    assert ichx("jobs", "cancel", "slurm:1_0", "--yes", cwd=dataset_copy).code == 1
    ichx("jobs", "show", "slurm:2", "--json", cwd=dataset_copy).check_error("not_found", "slurm:2")
    ichx("jobs", 99, "--json", cwd=dataset_copy).check_error("not_found", "99")


def test_a_local_run_mentions_the_jobs_of_its_folds(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number, other = register(dataset_copy), register(dataset_copy)
    (queue.folder / "hold").touch()
    assert ichx("run", number, "--on", "slurm", "--device", "cpu", "--detach", cwd=dataset_copy).code == 0
    handles = [str(job["handle"]) for job in listed(ichx, dataset_copy)]
    mentioned = {
        fold: ichx("run", number, "--fold", fold, "--weights", "none.pth", cwd=dataset_copy).err for fold in (0, 1)
    }
    for fold, text in mentioned.items():
        assert [handle in text for handle in handles] == [handle.endswith(f"_{fold}") for handle in handles]
    several = ichx("run", number, other, "--processes", 2, cwd=dataset_copy).err  # which is refused
    assert all(handle in several for handle in handles)
    assert handles[0] not in ichx("run", other, "--weights", "none.pth", cwd=dataset_copy).err
    assert ichx("jobs", "cancel", number, "--yes", cwd=dataset_copy).code == 0


def test_a_log_that_a_job_never_writes_is_not_awaited(
    dataset_copy: Path, queue: FileEngine, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = register(dataset_copy)
    (queue.folder / "hold").touch()
    assert ichx("run", number, "--on", "slurm", "--device", "cpu", "--detach", cwd=dataset_copy).code == 0
    handles = [str(job["handle"]) for job in listed(ichx, dataset_copy)]
    waits = 0

    def cancel(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            for handle in handles:
                queue.cancel(handle)
                queue.wait(handle)

    monkeypatch.setattr("ichx.cli.exp_show.time", SimpleNamespace(sleep=cancel))
    done = ichx("exp", "log", number, "-f", cwd=dataset_copy)
    assert (done.code, f"experiment {number} " in done.err, waits > 1) == (1, True, True)


def test_a_reason_that_repeats_the_state_is_not_printed(dataset_copy: Path, ichx: Program) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        records = store.add_jobs([JobDraft("ichx-1", at, "slurm", "fold", f"job {at}", "log") for at in range(2)])
        store.set_handles("ichx-1", ["slurm:1_0", "slurm:1_1"])
        changes = (JobChange("cancelled", -15, reason="CANCELLED"), JobChange("failed", -9, reason="OUT_OF_MEMORY"))
        store.update_jobs({record.id: change for record, change in zip(records, changes, strict=True)})
    assert "CANCELLED" not in ichx("jobs", cwd=dataset_copy).out
    assert "CANCELLED" not in ichx("jobs", "show", "slurm:1_0", cwd=dataset_copy).out
    assert "failed (OUT_OF_MEMORY)" in ichx("jobs", "show", "slurm:1_1", cwd=dataset_copy).out


def test_the_list_is_limited(dataset_copy: Path, ichx: Program) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        drafts = [JobDraft("ichx-1", at, "slurm", "fold", f"job {at}", "log") for at in range(60)]
        records = store.add_jobs(drafts)
        store.update_jobs({record.id: JobChange("done", 0) for record in records})
    newest = [job["position"] for job in listed(ichx, dataset_copy)]
    assert newest == list(range(59, 9, -1))
    assert [job["position"] for job in listed(ichx, dataset_copy, "--limit", 2)] == [59, 58]
    assert len(listed(ichx, dataset_copy, "--all")) == 60
    ichx("jobs", "show", "ichx-1", "--json", cwd=dataset_copy).check_error("not_found", "ichx-1", "60 jobs")


def test_predict_and_evaluate_as_jobs_print_what_they_print_here(
    trained_copy: Path, phantom: PhantomFiles, queue: FileEngine, ichx: Program
) -> None:
    root = trained_copy
    assert phantom.test is not None
    source = min(phantom.test.rglob("*.dcm"))
    here = ichx("predict", 2, source, "--device", "cpu", cwd=root)
    relative = os.path.relpath(source, root)
    there = ichx("predict", 2, relative, "--device", "cpu", "--on", "slurm", "--cpus", 1, cwd=root)
    assert (there.code, there.out) == (0, here.out)
    assert here.err.splitlines()[-1] in there.err
    saved = ichx("predict", 2, relative, "--device", "cpu", "--on", "slurm", "--out", "new.csv", cwd=root)
    assert (saved.code, (root / "new.csv").is_file()) == (0, True), saved.err
    (job, other) = listed(ichx, root)
    assert (job["kind"], job["experiment"], job["state"]) == ("predict", 2, "done")
    assert f"{source}" in str(job["name"])
    assert job["submission"] != other["submission"]

    failed = ichx("evaluate", 2, "--dataset", "ph", "--device", "cpu", "--on", "slurm", "--json", cwd=root)
    failed.check_error("conflict", "ph")
    assert listed(ichx, root)[0]["exit_code"] == 1


def test_a_detached_command_is_followed_by_the_same_one(
    trained_copy: Path, phantom: PhantomFiles, queue: FileEngine, ichx: Program
) -> None:
    root = trained_copy
    assert phantom.test is not None
    command = ("predict", 2, min(phantom.test.rglob("*.dcm")), "--device", "cpu", "--on", "slurm")
    (queue.folder / "hold").touch()
    detached = ichx(*command, "--detach", cwd=root)
    (job,) = listed(ichx, root)
    assert (detached.code, detached.out, str(job["handle"]) in detached.err) == (0, "", True)
    (queue.folder / "hold").unlink()
    followed = ichx(*command, cwd=root)
    assert (followed.code, len(listed(ichx, root))) == (0, 1)
    assert followed.out == (root / str(job["log"])).with_suffix(".out").read_text()
    assert followed.out.count("\n") == 2


def test_all_problems_of_the_settings_are_indented_below_their_check(dataset_copy: Path, ichx: Program) -> None:
    with (dataset_copy / "ichx.toml").open("a") as file:
        file.write('[engine.slurm]\ngpus = "one"\ntime = "12 hours"\n')
    checked = ichx("engine", "check", "slurm", cwd=dataset_copy)
    lines = checked.out.splitlines()
    assert (checked.code, sum(line.startswith("WRONG") for line in lines)) == (1, 1)
    assert [line for line in lines if not line.startswith(("WRONG", "      "))] == []
    assert all(any(key in line for line in lines) for key in ("`gpus`", "`time`"))


def test_parts_of_a_cache_are_jobs(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    sizes = ("--size", 40, "--size", 48)
    done = ichx("data", "cache", "ph", *sizes, "--on", "slurm", "--jobs", 2, "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    found = {cache["spec"]["size"]: cache["complete"] for cache in json.loads(done.out)["caches"]}
    assert found[40] is found[48] is True
    assert [(job["kind"], job["state"]) for job in listed(ichx, dataset_copy)] == [("cache", "done")] * 2
    again = ichx("data", "cache", "ph", *sizes, "--on", "slurm", "--jobs", 2, cwd=dataset_copy)
    assert (again.code, len(listed(ichx, dataset_copy))) == (0, 2)
    single = ichx("data", "cache", "ph", "--size", 24, "--on", "slurm", "--json", cwd=dataset_copy)
    assert sorted(cache["spec"]["size"] for cache in json.loads(single.out)["caches"])[0] == 24  # one document
    for arguments in (("--jobs", 2), ("--on", "slurm"), (*sizes, "--part", "1/2", "--on", "slurm")):
        ichx("data", "cache", "ph", *arguments, "--json", cwd=dataset_copy).check_error("usage", "--jobs")


def test_a_detached_tuner_is_a_job_without_gpu(dataset_copy: Path, queue: FileEngine, ichx: Program) -> None:
    number = register(dataset_copy)
    (queue.folder / "hold").touch()
    (dataset_copy / "space.toml").write_text("batch = [16, 32]\n")
    options = ("--trials", 2, "--space", "space.toml", "--gpus", 1, "--on", "slurm", "--detach", "--json")
    (submitted,) = json.loads(ichx("tune", number, *options, cwd=dataset_copy).out)
    (job,) = listed(ichx, dataset_copy)
    assert (job["handle"], job["kind"], job["experiment"]) == (submitted["job"], "tune", number)
    (file,) = queue.folder.glob("*/*/job.json")
    words = json.loads(file.read_text())["argv"][3:]
    assert words[:2] == ["tune", str(number)]
    assert {"--trials=2", f"--space={dataset_copy / 'space.toml'}", "--gpus=1", "--on=slurm"} <= set(words)
    assert "--detach" not in words
    assert queue.resources == Resources(cpus=1, gpus=0, memory=4_000_000_000)
    assert ichx("jobs", "cancel", number, "--yes", cwd=dataset_copy).code == 0


def test_a_job_that_is_being_submitted_is_not_cancelled_silently(
    dataset_copy: Path, queue: FileEngine, ichx: Program
) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        store.add_jobs([JobDraft("unknown", 0, "slurm", "predict", "predict 1", "log")])
    done = ichx("jobs", "cancel", "unknown", "--yes", cwd=dataset_copy)
    assert done.code == 1
    assert "1 job" in done.err
