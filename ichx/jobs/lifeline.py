"""The lifeline of a job: a pipe that its engine's process holds open, and that closes however that process ends.

A job that watches it ends with the engine, even where nobody could tell it to. Not for what a job does to end well.
"""

import os
import signal
import threading
import time

VARIABLE = "ICHX_LIFELINE"
"""The environment variable that tells a job the pipe's descriptor."""

GRACE_SECONDS = 300.0
"""How long a job that lost its engine has to end by itself: a large step on a CPU, and a checkpoint."""


def watch_lifeline() -> None:
    """Have this process end as with SIGTERM when its engine's is gone; call it once, where a job's program begins.

    Nothing happens in a process that no engine started.
    """
    told = os.environ.pop(VARIABLE, None)  # the pipe is this process's: what it starts must not look for it
    if told is not None:
        os.set_inheritable(int(told), False)
        threading.Thread(target=_end_with_engine, args=(int(told),), name="ichx-lifeline", daemon=True).start()


def _end_with_engine(descriptor: int) -> None:
    while os.read(descriptor, 1):  # nothing is ever written: this returns when the last writer is gone
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # it leads the group that the engine made for it and what it started
    os._exit(1)
