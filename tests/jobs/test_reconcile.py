"""Recorded jobs get the states that their schedulers report."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from ichx.errors import CorruptFileError, NotFoundError, ProcessError
from ichx.jobs import JobResult, JobState
from ichx.jobs.follow import JobFollower, follow
from ichx.jobs.reconcile import reconcile
from ichx.jobs.recorded_engine import RecordedEngine
from ichx.store import JobDraft, Store, open_store
from ichx.workspace import Workspace


class Scheduler:
    """An engine with the states and results that a test sets."""

    name = "slurm"
    outlives_submitter = True

    def __init__(self, known: dict[str, JobState | JobResult]) -> None:
        self.known = known
        self.found: list[str] | None = None
        self.asked: list[int] = []
        self.closed = False

    def find(self, submission: str) -> list[str] | None:
        return self.found

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        self.asked.append(len(handles))
        for handle in handles:
            if handle not in self.known:
                raise NotFoundError(f"Unknown job: {handle}.", "Look.")
        states = {handle: self.known[handle] for handle in handles}
        return {handle: "ended" if isinstance(state, JobResult) else state for handle, state in states.items()}

    def poll(self, handle: str) -> JobResult | None:
        found = self.known.get(handle)
        if found is None:
            raise NotFoundError(f"Unknown job: {handle}.", "Look.")
        return found if isinstance(found, JobResult) else None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with open_store(workspace) as store:
        yield store


def add(store: Store, count: int, engine: str = "slurm", submission: str = "one") -> list[str]:
    """Record queued jobs and return their handles."""
    store.add_jobs([JobDraft(submission, at, engine, "predict", f"job {at}", "log") for at in range(count)])
    handles = [f"{engine}:{submission}_{at}" for at in range(count)]
    store.set_handles(submission, handles)
    return handles


def run(workspace: Workspace, store: Store, scheduler: Scheduler) -> list[str]:
    return reconcile(workspace, store, open_engine=lambda workspace, name: scheduler)  # type: ignore[arg-type, return-value]


def states(store: Store) -> list[tuple[str, int | None, str | None]]:
    return [(record.state, record.exit_code, record.reason) for record in store.jobs()]


def test_every_state_is_recorded_with_one_question(workspace: Workspace, store: Store) -> None:
    results = [
        "queued",
        "running",
        "lost",
        JobResult(0, 5.0),
        JobResult(1, 5.0),
        JobResult(143, 5.0, "CANCELLED"),
        JobResult(-15, 0.0),
        JobResult(-9, 5.0, "OUT_OF_MEMORY"),
        JobResult(143, 5.0, "TIMEOUT"),
        JobResult(-9, 0.0, "lost"),
        JobResult(0, 5.0, "CANCELLED"),  # it was asked to stop when it had done its work
    ]
    handles = add(store, len(results))
    scheduler = Scheduler(dict(zip(handles, results, strict=True)))  # type: ignore[arg-type]
    assert run(workspace, store, scheduler) == []
    assert states(store) == [
        ("queued", None, None),
        ("running", None, None),
        ("lost", None, None),
        ("done", 0, None),
        ("failed", 1, None),
        ("cancelled", 143, "CANCELLED"),
        ("cancelled", -15, None),
        ("failed", -9, "OUT_OF_MEMORY"),
        ("failed", 143, "TIMEOUT"),
        ("lost", None, None),
        ("done", 0, None),
    ]
    assert (scheduler.asked, scheduler.closed) == ([len(results)], True)
    run(workspace, store, scheduler)
    assert scheduler.asked == [len(results), 2]


def test_a_job_that_is_queued_again_is_queued(workspace: Workspace, store: Store) -> None:
    (handle,) = add(store, 1)
    scheduler = Scheduler({handle: "running"})
    for state in ("running", "queued", "running"):
        scheduler.known[handle] = state  # type: ignore[assignment]
        run(workspace, store, scheduler)
        assert [record.state for record in store.jobs()] == [state]


def test_jobs_without_files_are_lost_and_hide_no_other(workspace: Workspace, store: Store) -> None:
    handles = add(store, 3)
    scheduler = Scheduler({handles[0]: "running", handles[2]: JobResult(0, 1.0)})
    assert run(workspace, store, scheduler) == []
    assert [state for state, _, _ in states(store)] == ["running", "lost", "done"]


def test_damaged_files_of_a_job_hide_no_other(
    workspace: Workspace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Damaged(Scheduler):
        def states(self, handles: Sequence[str]) -> dict[str, JobState]:
            self.poll(handles[0])
            return super().states(handles)

        def poll(self, handle: str) -> JobResult | None:
            if handle == "slurm:one_0":
                raise CorruptFileError("jobs/.slurm/1 is damaged.", "Cancel it.")
            return super().poll(handle)

        def find(self, submission: str) -> list[str] | None:
            raise CorruptFileError("jobs/two/jobs.json is damaged.", "Rerun.")

    handles = add(store, 2)
    store.add_jobs([JobDraft("two", 0, "slurm", "predict", "job", "log")])
    monkeypatch.setattr("ichx.jobs.reconcile.SUBMITTING_FOR", timedelta(0))
    assert run(workspace, store, Damaged({handles[1]: JobResult(0, 1.0)})) == []
    assert [state for state, _, _ in states(store)] == ["lost", "done", "lost"]


def test_one_scheduler_that_is_away_hides_no_other(workspace: Workspace, store: Store) -> None:
    (here,), (there,) = add(store, 1), add(store, 1, engine="ray", submission="two")

    def open_engine(workspace: Workspace, name: str) -> Scheduler:
        if name == "ray":
            raise ProcessError("No answer from http://head:8265.", "Wait.")
        return Scheduler({here: JobResult(0, 1.0)})

    (problem,) = reconcile(workspace, store, open_engine=open_engine)  # type: ignore[arg-type]
    assert all(value in problem for value in ("ray", "http://head:8265"))
    assert {record.handle: record.state for record in store.jobs()} == {here: "done", there: "queued"}


def test_a_submission_without_handles(workspace: Workspace, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler({})
    store.add_jobs([JobDraft("one", at, "slurm", "predict", f"job {at}", "log") for at in range(2)])
    run(workspace, store, scheduler)
    assert [record.state for record in store.jobs()] == ["submitting", "submitting"]  # it may still be queued
    scheduler.found = ["slurm:7_0", "slurm:7_1"]
    scheduler.known = {"slurm:7_0": "running", "slurm:7_1": JobResult(1, 1.0)}
    run(workspace, store, scheduler)
    assert [(record.handle, record.state) for record in store.jobs()] == [
        ("slurm:7_0", "running"),
        ("slurm:7_1", "failed"),
    ]
    store.add_jobs([JobDraft("two", 0, "slurm", "predict", "job", "log")])
    scheduler.found = None
    monkeypatch.setattr("ichx.jobs.reconcile.SUBMITTING_FOR", timedelta(0))
    run(workspace, store, scheduler)
    (never,) = store.jobs(submission="two")
    assert (never.state, never.handle) == ("lost", None)


def test_a_followed_job_whose_files_are_gone_is_lost(workspace: Workspace, store: Store) -> None:
    handles = add(store, 2)
    engine = RecordedEngine(Scheduler({handles[1]: JobResult(0, 1.0)}), store, workspace)  # type: ignore[arg-type]
    engine.adopt(store.jobs())
    ends: dict[str, JobResult] = {}

    class Follower(JobFollower):
        def ended(self, handle: str, result: JobResult) -> None:
            ends[handle] = result

    assert follow(engine, dict.fromkeys(handles, "queued"), Follower(), lambda: False) == {}
    assert ends == {handles[0]: JobResult(-9, 0.0, "lost"), handles[1]: JobResult(0, 1.0)}
    assert [state for state, _, _ in states(store)] == ["lost", "done"]
