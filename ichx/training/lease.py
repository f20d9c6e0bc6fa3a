"""The lease on a fold: one live run at a time, with a heartbeat in the store and a recorded end."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.store import Run, RunDraft, Store
    from ichx.training.events import RunEvents

HEARTBEAT_SECONDS = 15.0


@contextlib.contextmanager
def lease(store: "Store", draft: "RunDraft", events: "RunEvents") -> Iterator["Run"]:
    """Hold the fold in the store with a beating heart; record how the attempt ends when it does not end well."""
    run = store.start_run(draft)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                store.heartbeat(run.id)
            except IchxError as error:
                events.note(f"no heartbeat: {error.problem}")

    heart = threading.Thread(target=beat, name="ichx-heartbeat", daemon=True)
    heart.start()
    try:
        yield run
    except BaseException as error:
        state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = error.problem if isinstance(error, IchxError) else f"{type(error).__name__}: {error}"
        try:
            store.finish_run(run.id, state, error=reason if state == "failed" else None)
        except IchxError as unrecorded:  # the first error is the one to raise
            events.note(f"the end of this run is not recorded: {unrecorded.problem}")
        raise
    finally:
        stop.set()
        heart.join()
