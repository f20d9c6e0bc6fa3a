"""Studies whose trials are jobs of a cluster: they outlive the tuner, and the next tuner adopts them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from scripted_engine import CPU, SEARCHES, Recorder, ScriptedEngine, far_from, search

from ichx.errors import ProcessError
from ichx.jobs import Job, JobResult, JobState, follow, scheduler
from ichx.jobs.engine import Resources
from ichx.jobs.recorded_engine import RecordedEngine
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.tuning.space import parse_space
from ichx.tuning.tune_report import TuneReport

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.01)


@dataclass
class Cluster(ScriptedEngine):
    """A scripted engine whose jobs some scheduler ends: the results by number of the job."""

    ends: dict[int, JobResult] = field(default_factory=dict)
    away: Callable[["Cluster"], bool] = lambda cluster: False
    """Whether the scheduler does not answer; called for each request."""

    outlives_submitter = True

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        if self.away(self):
            raise ProcessError("sbatch: no controller.", "Wait.")
        return super().submit(jobs, at_once=at_once, submission=submission)

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        if self.away(self):
            raise ProcessError("squeue: no controller.", "Wait.")
        return super().states(handles)

    def poll(self, handle: str) -> JobResult | None:
        index = int(handle.partition(":")[2])
        if index in self.ends and self._runs[index].at == 2:
            if self._runs[index].result is None:
                self.store.finish_run(self._runs[index].run.id, "stopped")
            self._runs[index].result = self.ends[index]
        return super().poll(handle)


def run(project: Project, engine: Cluster, trials: int, **settings: object) -> tuple[TuneReport, Recorder]:
    seen = Recorder()
    recorded = RecordedEngine(engine, project.store, project.workspace)
    space = parse_space(list(SEARCHES), from_toml(project.store.experiment(1).recipe))
    options = {"space": space, "budget": CPU, "pruner": "none", **settings}
    return search(project, recorded, trials, callbacks=seen, **options), seen  # type: ignore[arg-type]


def states(project: Project) -> list[str]:
    return [record.state for record in project.store.jobs()]


def test_a_tuner_that_is_stopped_leaves_its_trials_to_the_next_one(project: Project) -> None:
    engine = Cluster(project.store, far_from(1e-3))
    report, _ = run(project, engine, 3, jobs=2, stop_level=lambda: int(len(engine.jobs) == 2))
    assert (report.reason, report.finished) == ("stopped", 0)
    assert [(job.kind, job.experiment is not None, job.fold) for job in engine.jobs] == [("trial", True, 1)] * 2
    assert [record.state for record in project.store.jobs()] == ["queued", "queued"]
    assert not any(scripted.cancelled for scripted in engine._runs)

    resources = Resources(gpus=1)
    report, seen = run(project, engine, 3, jobs=2, resources=resources)
    assert (report.reason, report.finished, report.new) == ("complete", 3, 3)
    assert [job.resources for job in engine.jobs] == [Resources(), Resources(), resources]
    assert states(project) == ["done"] * 3
    assert [view.state for view in seen.ended] == ["done"] * 3


def test_a_trial_that_ended_while_no_tuner_ran_is_not_submitted_again(project: Project) -> None:
    engine = Cluster(project.store, far_from(1e-3))
    run(project, engine, 2, stop_level=lambda: int(len(engine.jobs) == 1))
    engine.wait("scripted:0")
    report, _ = run(project, engine, 2)
    assert (report.reason, report.finished, len(engine.jobs)) == ("complete", 2, 2)
    assert states(project) == ["done", "done"]


def test_a_cancelled_trial_is_resumed_by_the_next_tuner(project: Project) -> None:
    engine = Cluster(project.store, far_from(1e-3), ends={0: JobResult(143, 1.0, "CANCELLED")})
    report, seen = run(project, engine, 2)
    assert (report.reason, report.finished) == ("stopped", 1)
    assert any("trial 1" in note for note in seen.notes)
    report, _ = run(project, engine, 2)
    assert (report.reason, report.finished, len(engine.jobs)) == ("complete", 2, 3)
    assert engine.jobs[2].argv == engine.jobs[0].argv
    assert states(project) == ["cancelled", "done", "done"]


@pytest.mark.parametrize("reason", ["lost", "NODE_FAIL"])
def test_a_trial_whose_job_is_lost_is_submitted_again(reason: str, project: Project) -> None:
    engine = Cluster(project.store, far_from(1e-3), ends={0: JobResult(-9, 0.0, reason)})
    report, seen = run(project, engine, 1)
    assert (report.reason, report.finished, len(engine.jobs)) == ("complete", 1, 2)
    assert any(reason in note for note in seen.notes)
    assert states(project) == ["lost" if reason == "lost" else "failed", "done"]


def test_a_trial_that_the_scheduler_ends_again_and_again_fails(project: Project) -> None:
    engine = Cluster(project.store, far_from(1e-3), ends=dict.fromkeys(range(9), JobResult(-9, 0.0, "OUT_OF_MEMORY")))
    with pytest.raises(Exception, match="OUT_OF_MEMORY"):
        run(project, engine, 1)
    assert len(engine.jobs) == 4


def test_a_scheduler_that_restarts_ends_no_tuning(project: Project) -> None:
    requests = 0

    def away(cluster: Cluster) -> bool:
        nonlocal requests
        requests += len(cluster.jobs) == 1
        return len(cluster.jobs) == 1 and requests % 4 != 0

    report, seen = run(project, Cluster(project.store, far_from(1e-3), away=away), 2)
    assert (report.reason, report.finished) == ("complete", 2)
    assert {"sbatch: no controller.", "squeue: no controller."} <= set(seen.problems)
    assert states(project) == ["done", "done"]


def test_a_scheduler_that_never_answers_is_an_error_at_once(project: Project) -> None:
    with pytest.raises(ProcessError, match="sbatch"):
        run(project, Cluster(project.store, far_from(1e-3), away=lambda cluster: True), 1)


def test_a_scheduler_that_stays_away_ends_the_tuning(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "AWAY_SECONDS", 0.05)
    finished = Cluster(project.store, far_from(1e-3))
    finished.away = lambda cluster: bool(cluster._runs) and cluster._runs[0].result is not None
    with pytest.raises(ProcessError, match="sbatch"):
        run(project, finished, 2)
