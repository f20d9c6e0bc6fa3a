"""Follows jobs that outlive this process: asks their scheduler once per tick for all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.jobs.engine import JobResult
from ichx.jobs.recorded_engine import RecordedEngine, result_of

if TYPE_CHECKING:
    from ichx.store import JobRecord

TICK_SECONDS = 3.0
"""Time between two questions to a scheduler; busy sites ask their users not to poll it more often."""

NAP_SECONDS = 0.1
"""Time between two checks for a stop request."""


class JobFollower:
    """Receives what happens to jobs; override what you need. An `IchxError` is passed to `trouble`."""

    def tick(self, queued: Sequence[str], running: Sequence[str]) -> None:
        """These jobs have not ended."""

    def ended(self, handle: str, result: JobResult) -> None:
        """A job has ended. Repeated at the next tick if it raises `IchxError`."""

    def trouble(self, problem: str) -> None:
        """The scheduler or the store could not be asked; the next tick asks again."""


def wait_for_handles(
    read: "Callable[[], list[JobRecord]]", what: str, trouble: Callable[[str], None], leave: Callable[[], bool]
) -> "list[JobRecord] | None":
    """Return the jobs that `read` returns once all are submitted; None if `leave` returns True before.

    `trouble` receives a line if another command is submitting `what`.
    """
    waited = False
    while True:
        records = read()
        if all(record.handle is not None for record in records):
            return records
        if not waited:
            trouble(f"another command is submitting {what}, or was killed while it did; waiting for it")
            waited = True
        if leave():
            return None
        nap(leave)


def follow(
    engine: RecordedEngine, jobs: Mapping[str, str], follower: JobFollower, leave: Callable[[], bool]
) -> dict[str, str]:
    """Follow jobs, given their last known states by handle, until all have ended or `leave` returns True.

    Return the states of those that have not ended.
    """
    active = dict(jobs)
    while active and not leave():
        try:
            states = engine.states(list(active))
            for handle, state in states.items():
                if state not in ("ended", "lost"):
                    active[handle] = state
                elif (result := result_of(engine, handle, state)) is not None:
                    engine.record_end(handle, result)  # frees the fold of a lost job
                    follower.ended(handle, result)
                    del active[handle]
            running = [handle for handle, state in active.items() if state == "running"]
            follower.tick([handle for handle, state in active.items() if state != "running"], running)
        except IchxError as error:
            follower.trouble(error.problem)
        if active:
            nap(leave)
    return active


def nap(leave: Callable[[], bool]) -> None:
    """Wait for the next tick, or until `leave` returns True."""
    end = time.monotonic() + TICK_SECONDS
    while time.monotonic() < end and not leave():
        time.sleep(NAP_SECONDS)
