"""Folds as jobs that outlive their submitter: submitted once, followed, adopted, resumed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import SHORT, clean_environment
from file_engine import FileEngine
from running_programs import wait_until

from ichx.errors import ConflictError, IchxError
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs import follow
from ichx.jobs.launch import launch
from ichx.jobs.launch_report import LaunchCallbacks, LaunchReport, LaunchRequest
from ichx.jobs.reconcile import reconcile
from ichx.jobs.recorded_engine import RecordedEngine
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

LONG = ("stage.balanced.epochs=2000", "stage.balanced.milestones=[]")


@pytest.fixture
def project(dataset_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.2)
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        yield Project(workspace, store)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FileEngine]:
    engine = FileEngine(tmp_path / "queue")
    yield engine
    for job in engine.folder.glob("*/*/job.json"):
        engine.kill(f"file:{job.parent.parent.name}_{job.parent.name}")


class Recorder(LaunchCallbacks):
    """Records what was submitted, and problems."""

    def __init__(self) -> None:
        self.submissions: list[tuple[int, int, int | None]] = []
        self.problems: list[str] = []

    def submitted(self, new: int, adopted: int, at_once: int | None) -> None:
        self.submissions.append((new, adopted, at_once))

    def trouble(self, problem: str) -> None:
        self.problems.append(problem)


def register(project: Project, *settings: str) -> int:
    request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings])
    return new_experiment(project.store, load_registry(), request).number


def run(
    project: Project,
    engine: FileEngine,
    *numbers: int,
    stop: Callable[[], bool] = lambda: False,
    seen: Recorder | None = None,
    **request: object,
) -> LaunchReport:
    """Launch experiments with a recorded engine of its own, as a command does."""
    recorded = RecordedEngine(engine, project.store, project.workspace)
    options = {"options": RunOptions(device="cpu"), **request}
    return launch(
        project,
        LaunchRequest(numbers, **options),  # type: ignore[arg-type]
        recorded,
        callbacks=seen,
        stop_level=lambda: int(stop()),
    )


def states(report: LaunchReport) -> list[str]:
    return [unit.state for unit in report.units]


def recorded_states(project: Project) -> list[str]:
    return [record.state for record in project.store.jobs()]


def running(project: Project, number: int) -> list[str | None]:
    """Return the jobs of the runs that have finished an epoch."""
    return [run.job for run in project.store.live_runs([number]) if run.epochs_done]


def test_all_folds_are_one_submission_and_end_with_the_weights_of_a_local_run(
    project: Project, engine: FileEngine
) -> None:
    good, bad, local = register(project), register(project, "precision=fp16"), register(project)
    seen = Recorder()
    report = run(project, engine, good, bad, seen=seen, jobs=1)
    assert states(report) == ["done", "done", "failed", "failed"]
    assert seen.submissions == [(4, 0, 1)]
    assert "fp16" in (report.units[2].reason or "")
    records = project.store.jobs()
    assert [(r.experiment, r.fold, r.state, r.exit_code) for r in records] == [
        (good, 0, "done", 0),
        (good, 1, "done", 0),
        (bad, 0, "failed", 1),
        (bad, 1, "failed", 1),
    ]
    assert len({record.submission for record in records}) == 1
    assert [unit.job for unit in report.units] == [record.handle for record in records]
    assert [run.job for run in project.store.runs(good)] == [records[0].handle, records[1].handle]
    environment = clean_environment()
    command = [sys.executable, "-m", "ichx", "run", str(local), "--device", "cpu"]
    subprocess.run(command, cwd=project.workspace.root, env=environment, check=True, capture_output=True)
    for fold in (0, 1):
        here, there = (
            read_weights(project.workspace.experiment_files(number).fold(fold).weights) for number in (local, good)
        )
        assert {name: t.numpy().tobytes() for name, t in here.items()} == {
            name: t.numpy().tobytes() for name, t in there.items()
        }
    assert report.experiments[0].score == project.store.experiment(local).score

    again = run(project, engine, good, seen=(rerun := Recorder()))
    assert (states(again), rerun.submissions) == (["already done"] * 2, [])


def test_jobs_continue_when_nobody_follows_and_are_adopted(project: Project, engine: FileEngine) -> None:
    number, seen = register(project, *LONG), Recorder()
    (engine.folder / "hold").touch()
    detached = run(project, engine, number, detach=True, folds=(0,))
    assert (states(detached), detached.detached, detached.stopped) == (["queued"], True, False)
    left = run(project, engine, number, seen=seen, stop=lambda: engine.asked > 3)
    assert (states(left), left.stopped) == (["queued", "queued"], True)
    assert seen.submissions == [(1, 1, None)]
    assert left.units[0].job == detached.units[0].job
    assert recorded_states(project) == ["queued", "queued"]
    with pytest.raises(ConflictError, match=left.units[0].job) as refused:
        project.store.trash([number])
    assert f"ichx jobs cancel {number}" in refused.value.remedy

    (engine.folder / "hold").unlink()
    asked = engine.asked
    followed = run(project, engine, number, stop=lambda: len(running(project, number)) == 2)
    assert (states(followed), len(recorded_states(project))) == (["running", "running"], 2)
    assert engine.asked > asked
    reconcile(project.workspace, project.store, opened={"file": engine})
    assert recorded_states(project) == ["running", "running"]


def test_a_cancelled_job_is_resumed_by_the_same_command(project: Project, engine: FileEngine) -> None:
    number = register(project, *LONG)

    def cancel_when_running() -> bool:
        if running(project, number):
            for record in project.store.jobs():
                engine.cancel(record.handle or "")
        return False

    report = run(project, engine, number, folds=(0,), stop=cancel_when_running)
    assert (states(report), report.complete, recorded_states(project)) == (["cancelled"], False, ["cancelled"])
    (stopped,) = project.store.runs(number)
    assert stopped.state == "stopped"
    run(project, engine, number, folds=(0,), stop=lambda: bool(running(project, number)))
    again = project.store.runs(number)[-1]
    assert again.job != stopped.job
    log = project.workspace.experiment_files(number).fold(0).log.read_text()
    assert f"checkpoint after epoch {stopped.epochs_done}" in log


def test_a_lost_job_is_noticed_and_resumed(project: Project, engine: FileEngine) -> None:
    number = register(project, *LONG)

    def kill_when_running() -> bool:
        if running(project, number):
            for record in project.store.jobs():
                engine.kill(record.handle or "")
        return False

    report = run(project, engine, number, folds=(0,), stop=kill_when_running)
    assert (states(report), recorded_states(project)) == (["failed"], ["lost"])
    assert (report.units[0].reason or "").startswith("lost")
    left = run(project, engine, number, folds=(0,), stop=lambda: bool(running(project, number)))
    lost, again = project.store.jobs()
    assert (states(left), lost.state, left.units[0].job) == (["running"], "lost", again.handle)


def test_a_scheduler_that_refuses_leaves_nothing(project: Project, engine: FileEngine) -> None:
    number = register(project)
    engine.refusal = "The partition gpu9 is unknown."
    with pytest.raises(ConflictError, match="gpu9"):
        run(project, engine, number)
    assert project.store.jobs() == []
    assert not project.workspace.experiment_dir(number).exists()
    engine.refusal = None
    assert states(run(project, engine, number, folds=(0,))) == ["done"]


def test_the_jobs_of_a_killed_submitter_are_found(project: Project, engine: FileEngine) -> None:
    """It was killed after the jobs were queued, before their handles were recorded."""
    number, seen = register(project), Recorder()
    (engine.folder / "hold").touch()

    class Killed(BaseException):
        pass

    class Dying(FileEngine):
        def submit(self, *args: object, **options: object) -> list[str]:
            super().submit(*args, **options)  # type: ignore[arg-type]
            raise Killed

    with pytest.raises(Killed):
        run(project, Dying(engine.folder), number)
    assert [(record.state, record.handle) for record in project.store.jobs()] == [("submitting", None)] * 2
    (engine.folder / "hold").unlink()
    report = run(project, engine, number, seen=seen)
    assert (states(report), seen.submissions) == (["done", "done"], [(0, 2, None)])
    assert len(project.store.jobs()) == 2


def test_a_submission_that_never_reached_the_scheduler_is_submitted_again(
    project: Project, engine: FileEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its submitter was killed before it could queue the jobs; for a while it might still do that."""
    number, seen = register(project), Recorder()

    class Killed(BaseException):
        pass

    class Dying(FileEngine):
        def submit(self, *args: object, **options: object) -> list[str]:
            raise Killed

    with pytest.raises(Killed):
        run(project, Dying(engine.folder), number, folds=(0,))
    left = run(project, engine, number, seen=seen, folds=(0,), stop=lambda: bool(seen.problems))
    assert (states(left), left.stopped) == (["not begun"], True)
    monkeypatch.setattr("ichx.jobs.reconcile.SUBMITTING_FOR", timedelta(0))
    assert states(run(project, engine, number, folds=(0,))) == ["done"]
    assert recorded_states(project) == ["lost", "done"]


def test_two_submitters_share_the_folds(project: Project, engine: FileEngine) -> None:
    """The other one submits between this one's decision and its submission."""
    number, seen = register(project), Recorder()
    (engine.folder / "hold").touch()

    class Late(RecordedEngine):
        def submit(self, *args: object, **options: object) -> list[str]:
            if not project.store.jobs():
                run(project, engine, number, folds=(1,), detach=True)
            return super().submit(*args, **options)  # type: ignore[arg-type]

    late = Late(engine, project.store, project.workspace)
    request = LaunchRequest((number,), options=RunOptions(device="cpu"))
    launch(project, request, late, callbacks=seen, stop_level=lambda: 1)
    assert seen.submissions == [(1, 1, None)]
    assert sorted((record.fold or 0, record.state) for record in project.store.jobs()) == [
        (0, "queued"),
        (1, "queued"),
    ]


def test_a_scheduler_that_does_not_answer_is_asked_again(project: Project, engine: FileEngine) -> None:
    number, seen = register(project), Recorder()

    class Shaky(FileEngine):
        def states(self, handles: object) -> dict[str, object]:  # type: ignore[override]
            self.asked += 1
            if self.asked % 2:
                raise IchxError("squeue does not answer.", "Wait.")
            return super().states(handles)  # type: ignore[arg-type, return-value]

    report = run(project, Shaky(engine.folder), number, folds=(0,), seen=seen)
    assert states(report) == ["done"]
    assert set(seen.problems) == {"squeue does not answer."}


def test_a_restarted_job_takes_over_its_own_fold(project: Project) -> None:
    """A scheduler restarts a job after its node died; nobody has recorded the end of the first run."""
    from ichx.experiments.provenance import run_draft

    number = register(project)
    home = project.workspace.experiment_dir(number) / "fold-0"
    os.environ["ICHX_JOB"] = "slurm:7_0"
    try:
        project.store.start_run(run_draft(number, 0, "cpu", 0, home))
        project.store.start_run(run_draft(number, 0, "cpu", 0, home))
        os.environ["ICHX_JOB"] = "slurm:8_0"
        with pytest.raises(ConflictError):
            project.store.start_run(run_draft(number, 0, "cpu", 0, home))
    finally:
        del os.environ["ICHX_JOB"]
    assert [run.state for run in project.store.runs(number)] == ["dead", "running"]


def test_a_killed_command_leaves_its_jobs(project: Project, engine: FileEngine) -> None:
    """SIGKILL while it follows: the jobs end, and the same command reports them."""
    number = register(project)
    code = (
        "import sys; from pathlib import Path; from ichx.jobs import follow; follow.TICK_SECONDS = 0.2\n"
        "import test_submitted_folds as t; from file_engine import FileEngine\n"
        "from ichx.store import open_store; from ichx.workspace import open_workspace\n"
        "from ichx.project import Project\n"
        "w = open_workspace(Path(sys.argv[1]))\n"
        "with open_store(w) as s: t.run(Project(w, s), FileEngine(Path(sys.argv[2])), int(sys.argv[3]))"
    )
    (engine.folder / "hold").touch()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    environment = clean_environment(PYTHONPATH=os.pathsep.join(paths))
    arguments = [str(project.workspace.root), str(engine.folder), str(number)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)
    wait_until(lambda: [r.handle is not None for r in project.store.jobs()] == [True, True], process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (engine.folder / "hold").unlink()
    seen = Recorder()
    report = run(project, engine, number, seen=seen)
    assert (states(report), seen.submissions) == (["done", "done"], [(0, 2, None)])
