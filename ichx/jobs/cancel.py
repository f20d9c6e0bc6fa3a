"""Cancels recorded jobs through the engines that execute them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.jobs.reconcile import open_site_engine

if TYPE_CHECKING:
    from ichx.store import JobRecord
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class CancelReport:
    """The outcome of a request to cancel jobs. A job that was asked to stop ends later."""

    asked: dict[str, int]
    """Number of jobs that were asked to stop, by engine."""
    submitting: int
    """Jobs that have no handle yet, so that nobody can cancel them."""
    problems: tuple[str, ...]
    """Why an engine could not cancel its jobs."""

    @property
    def complete(self) -> bool:
        """Whether all jobs were asked to stop."""
        return not self.submitting and not self.problems


def cancel_jobs(workspace: "Workspace", records: "Sequence[JobRecord]") -> CancelReport:
    """Ask the engines of `records`, which are active jobs, to cancel them."""
    asked, problems = {}, []
    queued: dict[str, list[str]] = {}
    for record in records:
        if record.handle is not None:
            queued.setdefault(record.engine, []).append(record.handle)
    for name, handles in sorted(queued.items()):
        try:
            engine = open_site_engine(workspace, name)
            for handle in handles:
                engine.cancel(handle)
            engine.close()
        except IchxError as error:
            problems.append(f"{name}: {error.problem} {error.remedy}")
        else:
            asked[name] = len(handles)
    return CancelReport(asked, sum(record.handle is None for record in records), tuple(problems))
