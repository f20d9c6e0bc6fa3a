"""Child processes that end with their parent, even if the parent is killed; what jobs get from their environment."""

import os
import signal
import threading
import time
from typing import Final

PARENT: Final = "ICHX_PARENT"
"""Environment variable that names the process without which a child ends."""

JOB: Final = "ICHX_JOB"
"""Environment variable with the handle of the scheduler's job that a process belongs to."""

OUTPUT: Final = "ICHX_OUTPUT"
"""Environment variable with the file that receives the standard output of a job, which has a log for the rest."""

GRACE_SECONDS: Final = 300.0
"""Time that a child has to stop: a large step on a CPU, and a checkpoint."""

POLL_SECONDS: Final = 0.5


def child_environment() -> dict[str, str]:
    """Return the environment variable by which a child that calls `watch_parent` ends with this process."""
    return {PARENT: str(os.getpid())}


def watch_parent() -> None:
    """End this process with the parent that `PARENT` names, if any; called once, where the program starts."""
    parent = os.environ.pop(PARENT, None)  # not for the processes that this one starts
    if parent is not None:
        end_with_parent(int(parent), GRACE_SECONDS)


def redirect_output() -> None:
    """Send standard output to the file that `OUTPUT` names, if any; called once, where the program starts."""
    path = os.environ.pop(OUTPUT, None)  # not for the processes that this one starts
    if path is not None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.close(file)


def end_with_parent(parent: int, grace: float | None) -> None:
    """End this process when its parent process `parent` has ended.

    Args:
        parent: Process id of the parent.
        grace: Seconds between SIGTERM and SIGKILL of this process and the process group that it leads; None ends
            this process at once.
    """
    threading.Thread(target=_watch, args=(parent, grace), name="ichx-parent", daemon=True).start()


def _watch(parent: int, grace: float | None) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if grace is not None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(1)
