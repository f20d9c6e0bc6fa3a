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
    except KeyboardInterrupt:
        store.finish_run(run.id, "stopped")
        raise
    except IchxError as error:
        store.finish_run(run.id, "failed", error=error.problem)
        raise
    except BaseException as error:
        store.finish_run(run.id, "failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        stop.set()
        heart.join()
