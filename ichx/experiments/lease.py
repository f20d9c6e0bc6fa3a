"""The lease on a fold: one live run at a time, with a heartbeat in the store and a recorded end."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ichx.errors import IchxError, RunEndedError
from ichx.store import EpochRecord

if TYPE_CHECKING:
    from ichx.experiments.callbacks import RunCallbacks
    from ichx.store import EndState, PredictionDraft, Run, RunDraft, Store
    from ichx.training.callbacks import EpochResult

HEARTBEAT_SECONDS = 15.0


class Lease:
    """A leased fold. Every method raises `RunEndedError` once another process has taken the fold over."""

    def __init__(self, store: "Store", run: "Run") -> None:
        self._store, self._run = store, run
        self.lost: RunEndedError | None = None

    def raise_if_lost(self) -> None:
        """Raise if a heartbeat has found that the fold was taken over. Does not ask the store."""
        if self.lost is not None:
            raise self.lost

    def check(self) -> None:
        """Ask the store whether the fold is still leased; call it before every file that is written for the fold."""
        self.raise_if_lost()
        self._store.heartbeat(self._run.id)

    def record_epoch(self, result: "EpochResult", epochs_done: int) -> None:
        """Record an epoch, and how many epochs of the fold are done."""
        record = EpochRecord(result.stage, result.stage_index, result.epoch, result.values)
        self._store.record_epoch(self._run.id, record)
        self._store.heartbeat(self._run.id, stage=result.stage, epoch=result.epoch, epochs_done=epochs_done)

    def finish(self, predictions: "list[PredictionDraft]") -> None:
        """Record that the fold is done, and its predictions."""
        self._store.finish_run(self._run.id, "done", predictions=predictions)


class NoLease(Lease):
    """The lease of a process that only helps the one with the lease: it records nothing."""

    def __init__(self) -> None:
        self.lost = None

    def check(self) -> None:
        """Do nothing."""

    def record_epoch(self, result: "EpochResult", epochs_done: int) -> None:
        """Do nothing."""

    def finish(self, predictions: "list[PredictionDraft]") -> None:
        """Do nothing."""


@contextlib.contextmanager
def fold_lease(store: "Store", draft: "RunDraft", callbacks: "RunCallbacks") -> Iterator[Lease]:
    """Lease a fold for a new run and send heartbeats; record how the run ends if it does not finish."""
    run = store.start_run(draft)
    callbacks.run_started(run)
    lease = Lease(store, run)
    ended = threading.Event()

    def send_heartbeats() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                store.heartbeat(run.id)
            except RunEndedError as error:
                lease.lost = error
                return
            except IchxError as error:
                callbacks.note(f"no heartbeat: {error.problem}")

    heartbeats = threading.Thread(target=send_heartbeats, name="ichx-heartbeat", daemon=True)
    heartbeats.start()
    try:
        yield lease
        callbacks.run_finished("done", None)
    except RunEndedError as error:
        callbacks.run_finished("lost", error.problem)
        raise  # the end is recorded already
    except BaseException as error:
        state: EndState = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = error.problem if isinstance(error, IchxError) else f"{type(error).__name__}: {error}"
        try:
            store.finish_run(run.id, state, error=reason if state == "failed" else None)
        except IchxError as unrecorded:  # the first error is the one to raise
            callbacks.note(f"the end of this run is not recorded: {unrecorded.problem}")
        callbacks.run_finished(state, reason if state == "failed" else str(error) or None)
        raise
    finally:
        ended.set()
        heartbeats.join()
