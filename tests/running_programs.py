"""Programs that run in another process while a test watches, signals or kills them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import clean_environment

TIMEOUT_SECONDS = 240.0


def start_ichx(*arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    """Start `ichx ARGUMENTS` in `cwd` with piped output."""
    return subprocess.Popen(
        [sys.executable, "-m", "ichx", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until `condition` holds; fail if `process` ends before, or after four minutes."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended early: {process.communicate()}")
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)
