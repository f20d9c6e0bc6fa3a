"""Commands as jobs of a scheduler: `ichx predict`, `evaluate`, `data cache` and `tune`, submitted once and followed."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.child_processes import OUTPUT
from ichx.errors import ConflictError
from ichx.jobs.engine import Job, JobResult, Resources
from ichx.jobs.follow import JobFollower, follow, wait_for_handles
from ichx.jobs.reconcile import reconcile
from ichx.jobs.recorded_engine import RecordedEngine, new_submission
from ichx.store.jobs import ACTIVE
from ichx.workspace import ENGINE_VARIABLE

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import JobRecord


@dataclass(frozen=True)
class CommandRequest:
    """Commands that run as one submission."""

    kind: str
    """As in `Job.kind`."""
    commands: tuple[Sequence[str], ...]
    """Arguments of `ichx`, one sequence per job. Paths are absolute."""
    resources: Resources = field(default_factory=Resources)
    detach: bool = False
    experiment: int | None = None


@dataclass(frozen=True)
class CommandResult:
    """One job of a `CommandRequest`."""

    job: str
    """Its handle."""
    name: str
    log: Path
    output: Path
    """File with its standard output."""
    result: JobResult | None
    """None if nobody followed it to its end."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command, as a shell reports it; 1 if it is unknown."""
        if self.result is None:
            return 1
        if self.result.reason is not None and self.result.exit_code <= 0:
            return 1  # lost, or ended by the scheduler
        return self.result.exit_code if self.result.exit_code >= 0 else 128 - self.result.exit_code


class CommandCallbacks:
    """Hooks; override what you need."""

    def submitted(self, new: int, adopted: int) -> None:
        """A scheduler has `new` jobs, and `adopted` ones of earlier commands."""

    def started(self, handle: str, name: str) -> None:
        """A job runs."""

    def printed(self, handle: str, text: str) -> None:
        """A job has appended complete lines to its log."""

    def trouble(self, problem: str) -> None:
        """The scheduler could not be asked; the next tick asks again."""


def run_commands(
    project: "Project",
    engine: RecordedEngine,
    request: CommandRequest,
    callbacks: CommandCallbacks,
    leave: Callable[[], bool],
) -> list[CommandResult]:
    """Submit commands as jobs, unless jobs with the same commands are active, and follow them to their end.

    Returns nothing if the user left while another process submitted them.

    Args:
        project: The open project.
        engine: Executes the jobs.
        request: The commands.
        callbacks: Receives progress.
        leave: Returns True to stop following; the jobs continue.
    """
    while (active := _active_jobs(project, engine, request, callbacks, leave)) is not None:
        missing = [words for words in request.commands if _name(words) not in active]
        try:
            active |= _submit(project, engine, request, missing)
        except ConflictError:
            if not _recorded(project, engine, missing):
                raise  # the scheduler has refused them
        else:
            break
    if active is None:
        return []
    callbacks.submitted(len(missing), len(request.commands) - len(missing))
    follower = _LogFollower({handle: (name, log) for name, (handle, log) in active.items()}, callbacks)
    if not request.detach:
        follow(engine, dict.fromkeys(follower.jobs, "queued"), follower, leave)
    return [
        CommandResult(handle, name, log, log.with_suffix(".out"), follower.results.get(handle))
        for handle, (name, log) in follower.jobs.items()
    ]


def _name(words: Sequence[str]) -> str:
    return f"ichx {shlex.join(words)}"


def _submit(
    project: "Project", engine: RecordedEngine, request: CommandRequest, commands: Sequence[Sequence[str]]
) -> dict[str, tuple[str, Path]]:
    """Submit commands; return handle and log of their jobs by name."""
    if not commands:
        return {}
    submission = new_submission()
    folder = project.workspace.jobs_dir / submission
    environment = {"ICHX_WORKSPACE": str(project.workspace.root), ENGINE_VARIABLE: "local"}
    jobs = [
        Job(
            (sys.executable, "-m", "ichx", *words),
            folder / f"{at}.log",
            _name(words),
            {**environment, OUTPUT: str(folder / f"{at}.out")},
            request.resources,
            request.kind,
            request.experiment,
        )
        for at, words in enumerate(commands)
    ]
    handles = engine.submit(jobs, submission=submission)
    return {job.name: (handle, job.log) for job, handle in zip(jobs, handles, strict=True)}


def _recorded(project: "Project", engine: RecordedEngine, commands: Sequence[Sequence[str]]) -> "list[JobRecord]":
    """Return the active jobs that execute `commands`."""
    names = {_name(words) for words in commands}
    return [r for r in project.store.jobs(ACTIVE) if r.engine == engine.name and r.name in names]


def _active_jobs(
    project: "Project",
    engine: RecordedEngine,
    request: CommandRequest,
    callbacks: CommandCallbacks,
    leave: Callable[[], bool],
) -> dict[str, tuple[str, Path]] | None:
    """Return handle and log of the active jobs with the same commands, by name.

    None if the user left while another process submits them.
    """

    def read() -> "list[JobRecord]":
        for problem in reconcile(project.workspace, project.store, opened={engine.name: engine}):
            callbacks.trouble(problem)
        return _recorded(project, engine, request.commands)

    records = wait_for_handles(read, "this job", callbacks.trouble, leave)
    if records is None:
        return None
    engine.adopt(records)
    root = project.workspace.root
    return {r.name: (r.handle, root / r.log) for r in records if r.handle is not None}


class _LogFollower(JobFollower):
    """Passes on what jobs append to their logs."""

    def __init__(self, jobs: Mapping[str, tuple[str, Path]], callbacks: CommandCallbacks) -> None:
        self.jobs, self._callbacks = dict(jobs), callbacks
        self.results: dict[str, JobResult] = {}
        self._read = dict.fromkeys(jobs, 0)
        self._started: set[str] = set()

    def tick(self, queued: Sequence[str], running: Sequence[str]) -> None:
        for handle in running:
            self._follow(handle)

    def ended(self, handle: str, result: JobResult) -> None:
        self._follow(handle, complete=True)
        self.results[handle] = result

    def trouble(self, problem: str) -> None:
        self._callbacks.trouble(problem)

    def _follow(self, handle: str, *, complete: bool = False) -> None:
        name, log = self.jobs[handle]
        if handle not in self._started:
            self._started.add(handle)
            self._callbacks.started(handle, name)
        with suppress(FileNotFoundError), log.open("rb") as file:
            file.seek(self._read[handle])
            content = file.read()
            end = len(content) if complete else content.rfind(b"\n") + 1
            if end:
                self._read[handle] += end
                self._callbacks.printed(handle, content[:end].decode(errors="replace"))
