"""Commands as jobs: each is submitted once, also if several processes submit it at the same time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from file_engine import FileEngine

from ichx.errors import ConflictError
from ichx.jobs import Job, follow
from ichx.jobs.command_jobs import CommandCallbacks, CommandRequest, CommandResult, run_commands
from ichx.jobs.recorded_engine import RecordedEngine
from ichx.project import Project
from ichx.store import JobDraft, open_store
from ichx.workspace import init_workspace

REQUEST = CommandRequest("cache", (("data", "cache", "scans", "--part=1/2"), ("data", "cache", "scans", "--part=2/2")))
NAMES = ["ichx data cache scans --part=1/2", "ichx data cache scans --part=2/2"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.1)
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[FileEngine]:
    """A scheduler that keeps all jobs queued."""
    engine = FileEngine(tmp_path / "queue")
    (engine.folder / "hold").touch()
    yield engine
    for job in engine.folder.glob("*/*/job.json"):
        engine.kill(f"file:{job.parent.parent.name}_{job.parent.name}")


def run(project: Project, engine: RecordedEngine) -> list[CommandResult]:
    """Submit the commands, and leave at once."""
    return run_commands(project, engine, REQUEST, CommandCallbacks(), lambda: True)


class Overtaken(RecordedEngine):
    """Another process submits the same commands first."""

    project: Project
    other: list[CommandResult] | None = None

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        if self.other is None:
            self.other = []
            self.other = run(self.project, RecordedEngine(self._engine, self._store, self.project.workspace))
        return super().submit(jobs, at_once=at_once, submission=submission)


def test_commands_that_another_process_has_just_submitted_are_followed(project: Project, queue: FileEngine) -> None:
    engine = Overtaken(queue, project.store, project.workspace)
    engine.project = project
    results = run(project, engine)
    assert engine.other is not None
    assert sorted(result.name for result in results) == NAMES
    assert sorted(result.job for result in results) == sorted(result.job for result in engine.other)
    assert [record.name for record in project.store.jobs()] == NAMES


def test_nothing_is_submitted_by_a_user_who_leaves_while_another_process_submits(
    project: Project, queue: FileEngine
) -> None:
    project.store.add_jobs([JobDraft("other", 0, queue.name, "cache", NAMES[0], "log")])
    assert run(project, RecordedEngine(queue, project.store, project.workspace)) == []
    assert [record.submission for record in project.store.jobs()] == ["other"]
    assert not list(queue.folder.glob("*/*/job.json"))


def test_a_refusal_of_the_scheduler_is_raised(project: Project, queue: FileEngine) -> None:
    queue.refusal = "Too many jobs."
    with pytest.raises(ConflictError, match="Too many jobs"):
        run(project, RecordedEngine(queue, project.store, project.workspace))
    assert project.store.jobs() == []
