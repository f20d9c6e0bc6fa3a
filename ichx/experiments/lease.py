"""The lease on a fold: one live run at a time, with a heartbeat in the store and a recorded end."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ichx.errors import IchxError, RunEndedError

if TYPE_CHECKING:
    from ichx.store import EpochRecord, PredictionDraft, Run, RunDraft, Store
    from ichx.training.callbacks import RunEvents

HEARTBEAT_SECONDS = 15.0


class Lease:
    """A fold that is held. Every method raises `RunEndedError` once another process has taken the fold over."""

    def __init__(self, store: "Store", run: "Run") -> None:
        self._store, self._run = store, run
        self.lost: RunEndedError | None = None

    def check(self) -> None:
        """Raise where the fold is no longer held. This comes before every file that is written for it."""
        if self.lost is not None:
            raise self.lost
        self._store.heartbeat(self._run.id)

    def record_epoch(self, record: "EpochRecord", epochs_done: int) -> None:
        """Record an epoch, and how many the fold has done with it."""
        self._store.record_epoch(self._run.id, record)
        self._store.heartbeat(self._run.id, stage=record.stage, epoch=record.epoch, epochs_done=epochs_done)

    def finish(self, predictions: "list[PredictionDraft]") -> None:
        """Record that the fold is done, and what it has predicted."""
        self._store.finish_run(self._run.id, "done", predictions=predictions)


class NoLease(Lease):
    """What a process holds that only helps the one with the lease: it writes nothing."""

    def __init__(self) -> None:
        self.lost = None

    def check(self) -> None:
        """Do nothing."""

    def record_epoch(self, record: "EpochRecord", epochs_done: int) -> None:
        """Do nothing."""

    def finish(self, predictions: "list[PredictionDraft]") -> None:
        """Do nothing."""


@contextlib.contextmanager
def lease(store: "Store", draft: "RunDraft", events: "RunEvents") -> Iterator[Lease]:
    """Hold the fold in the store with a beating heart; record how the attempt ends when it does not end well.

    `events` are told of its beginning and its end.
    """
    run = store.start_run(draft)
    events.attempt_started(run)
    held = Lease(store, run)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                store.heartbeat(run.id)
            except RunEndedError as error:
                held.lost = error
                return
            except IchxError as error:
                events.note(f"no heartbeat: {error.problem}")

    heart = threading.Thread(target=beat, name="ichx-heartbeat", daemon=True)
    heart.start()
    try:
        yield held
        events.attempt_ended("done", None)
    except RunEndedError as error:
        events.attempt_ended("lost", error.problem)
        raise  # its end is recorded already
    except BaseException as error:
        state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = error.problem if isinstance(error, IchxError) else f"{type(error).__name__}: {error}"
        try:
            store.finish_run(run.id, state, error=reason if state == "failed" else None)
        except IchxError as unrecorded:  # the first error is the one to raise
            events.note(f"the end of this run is not recorded: {unrecorded.problem}")
        events.attempt_ended(state, reason if state == "failed" else str(error) or None)
        raise
    finally:
        stop.set()
        heart.join()
