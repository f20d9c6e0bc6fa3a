"""Reconciles the recorded jobs with their schedulers: what a scheduler knows of them is recorded in the store."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ichx.errors import CorruptFileError, IchxError, NotFoundError
from ichx.jobs.engine import Engine
from ichx.jobs.recorded_engine import known_states, recorded_end, result_of
from ichx.store import JobChange
from ichx.store.jobs import ACTIVE

if TYPE_CHECKING:
    from ichx.store import JobRecord, Store
    from ichx.workspace import Workspace

SUBMITTING_FOR: Final = timedelta(minutes=2)
"""Time after which a submission that its scheduler does not know was never queued: its submitter has ended."""

OpenEngine = Callable[["Workspace", str], Engine]


def open_site_engine(workspace: "Workspace", name: str) -> Engine:
    """Return an engine by its name, with the settings of the workspace."""
    from ichx.jobs.engines import open_engine

    return open_engine(workspace, name, 1)


def reconcile(
    workspace: "Workspace",
    store: "Store",
    *,
    experiments: Sequence[int] | None = None,
    opened: Mapping[str, Engine] | None = None,
    open_engine: OpenEngine = open_site_engine,
) -> list[str]:
    """Record the present states of the active jobs; return why a scheduler could not be asked.

    Each scheduler is asked once for all its jobs.

    Args:
        workspace: Workspace of the store.
        store: The open store.
        experiments: Only jobs of these experiments.
        opened: Engines to use, by name.
        open_engine: Opens the others.
    """
    by_engine: dict[str, list[JobRecord]] = {}
    for record in store.jobs(ACTIVE, experiments=experiments):
        by_engine.setdefault(record.engine, []).append(record)
    problems = []
    for name, records in by_engine.items():
        engine = (opened or {}).get(name)
        try:
            if engine is not None:
                _reconcile_with(engine, store, records)
            else:
                engine = open_engine(workspace, name)
                try:
                    _reconcile_with(engine, store, records)
                finally:
                    engine.close()
        except IchxError as error:
            problems.append(f"{name}: {error.problem}")
    return problems


def _reconcile_with(engine: Engine, store: "Store", records: "Sequence[JobRecord]") -> None:
    unsubmitted = {record.submission for record in records if record.handle is None}
    for submission in unsubmitted:
        handles = None
        with suppress(CorruptFileError, NotFoundError):  # its jobs cannot start, and must not hide the others
            handles = engine.find(submission)
        if handles is not None:
            store.set_handles(submission, handles)
            found = {record.id: record for record in store.jobs(submission=submission)}
            records = [found.get(record.id, record) for record in records]
    changes: dict[int, JobChange] = {}
    handles = [record.handle for record in records if record.handle is not None]
    states = known_states(engine, handles) if handles else {}
    for record in records:
        if record.handle is None:
            if store.time() - record.submitted > SUBMITTING_FOR:
                changes[record.id] = JobChange("lost", reason="its submission ended before it was queued")
            continue
        state = states[record.handle]
        if state == "ended" or state == "lost":  # narrows the type
            result = result_of(engine, record.handle, state)
            if result is not None:
                changes[record.id] = recorded_end(result)
        elif state != record.state:
            changes[record.id] = JobChange(state)
    if changes:
        store.update_jobs(changes)
