"""An engine whose jobs are recorded in the store, so that any later command finds them."""

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ichx.errors import CorruptFileError, IchxError, NotFoundError
from ichx.jobs.engine import CANCELLED, LOST, Engine, Job, JobResult, JobState
from ichx.store import JobChange, JobDraft

if TYPE_CHECKING:
    from ichx.store import JobRecord, Store
    from ichx.workspace import Workspace

STOP_CODES: Final = frozenset({129, 130, 143, -1, -2, -9, -15})
"""Exit codes of jobs that end on request: of `ichx` itself, and of signals."""


def new_submission() -> str:
    """Return a name for jobs that are submitted together."""
    return f"jobs-{secrets.token_hex(6)}"


def recorded_end(result: JobResult) -> JobChange:
    """Return what the store records of a job that has ended so."""
    if result.exit_code == 0:
        return JobChange("done", 0, seconds=result.seconds)
    if result.reason == LOST:
        return JobChange("lost")
    cancelled = result.reason == CANCELLED or (result.reason is None and result.exit_code in STOP_CODES)
    return JobChange("cancelled" if cancelled else "failed", result.exit_code, result.reason, result.seconds)


def known_states(engine: Engine, handles: Sequence[str]) -> dict[str, JobState]:
    """Return the states of jobs; one whose files somebody has deleted or damaged is lost, and hides no other."""
    try:
        return engine.states(handles)
    except (CorruptFileError, NotFoundError):
        if len(handles) == 1:
            return {handles[0]: "lost"}
        return {name: state for handle in handles for name, state in known_states(engine, [handle]).items()}


def result_of(engine: Engine, handle: str, state: JobState) -> JobResult | None:
    """Return the result of a job that its scheduler reports as `ended` or `lost`, None if it is not known yet."""
    result = None
    with suppress(CorruptFileError, NotFoundError):
        result = engine.poll(handle)
    return JobResult(-9, 0.0, LOST) if result is None and state == "lost" else result


class RecordedEngine:
    """Passes jobs to an engine whose jobs outlive their submitter, and records them in the store.

    A job is recorded before it is queued. If this process ends between that and the record of the handle, the engine
    finds the job by its submission; see `ichx.jobs.reconcile`.
    """

    outlives_submitter = True

    def __init__(self, engine: Engine, store: "Store", workspace: "Workspace") -> None:
        self.name = engine.name
        self._engine, self._store, self._root = engine, store, workspace.root
        self._active: dict[str, JobRecord] = {}

    def adopt(self, records: "Iterable[JobRecord]") -> None:
        """Record the ends of these jobs, too, which another process has submitted."""
        self._active |= {record.handle: record for record in records if record.handle is not None}

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        """See `Engine.submit`.

        Raises:
            IchxError: The scheduler refuses the jobs; none is queued, and none is recorded.
            ConflictError: One of the folds or commands has an active job.
        """
        submission = submission or new_submission()
        records = self._store.add_jobs([self._draft(submission, at, job) for at, job in enumerate(jobs)])
        try:
            handles = self._engine.submit(jobs, at_once=at_once, submission=submission)
        except IchxError:
            self._store.remove_jobs(submission)
            raise
        self._store.set_handles(submission, handles)
        self._active |= dict(zip(handles, records, strict=True))
        return handles

    def find(self, submission: str) -> list[str] | None:
        """See `Engine.find`."""
        return self._engine.find(submission)

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """See `Engine.states`; a job whose files are gone is lost."""
        return known_states(self._engine, handles)

    def poll(self, handle: str) -> JobResult | None:
        """See `Engine.poll`; an end is recorded."""
        return self._record(handle, self._engine.poll(handle))

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        """See `Engine.wait`; an end is recorded."""
        return self._record(handle, self._engine.wait(handle, timeout))

    def cancel(self, handle: str) -> None:
        """See `Engine.cancel`."""
        self._engine.cancel(handle)

    def kill(self, handle: str) -> None:
        """See `Engine.kill`."""
        self._engine.kill(handle)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()

    def record_end(self, handle: str, result: JobResult) -> None:
        """Record how a job ended."""
        record = self._active.get(handle)
        if record is not None:
            self._store.update_jobs({record.id: recorded_end(result)})
            del self._active[handle]

    def _record(self, handle: str, result: JobResult | None) -> JobResult | None:
        if result is not None:
            self.record_end(handle, result)
        return result

    def _draft(self, submission: str, position: int, job: Job) -> JobDraft:
        log = job.log.relative_to(self._root) if job.log.is_relative_to(self._root) else job.log
        return JobDraft(
            submission=submission,
            position=position,
            engine=self.name,
            kind=job.kind,
            name=job.name,
            log=log.as_posix(),
            experiment=job.experiment,
            fold=job.fold,
        )
