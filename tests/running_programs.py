"""Programs that run in another process while a test watches, signals or kills them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import clean_environment

TIMEOUT_SECONDS = 900.0
"""Time after which a program hangs, also on a slow machine that does other work."""

HOLD = """
import importlib, os, signal, sys
from pathlib import Path
place, folder, pattern, *sys.argv[1:] = sys.argv[1:]
module, _, names = place.partition(":")
*path, name = names.split(".")
owner = importlib.import_module(module)
for part in path:
    owner = getattr(owner, part)
held = getattr(owner, name)

def hold(*arguments, **named):
    if any(Path(folder).glob(pattern)):
        setattr(owner, name, held)
        os.kill(os.getpid(), signal.SIGSTOP)
    return held(*arguments, **named)

setattr(owner, name, hold)
from ichx.cli.app import main
main()
"""


def start_ichx(*arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    """Start `ichx ARGUMENTS` in `cwd` with piped output."""
    return _start(["-m", "ichx", *map(str, arguments)], cwd)


def race(script: str, *arguments: object, count: int = 4) -> list[str]:
    """Return what `count` processes print that run a Python script together from its `sys.stdin.readline()`."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())
        for _ in range(count)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return [racer.communicate(timeout=TIMEOUT_SECONDS)[0].strip() for racer in racers]


def start_held(place: str, files: Path, *arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    """Start `ichx ARGUMENTS`; return when it has stopped itself in a state, which SIGCONT ends.

    Args:
        place: The function that it enters then, e.g. `ichx.training.step_sync:StepSync.after_step`.
        files: Path with a pattern of files that exist then.
        arguments: Arguments of the program.
        cwd: Its directory.
    """
    process = _start(["-c", HOLD, place, str(files.parent), files.name, *map(str, arguments)], cwd)
    found = [0, 0]

    def has_changed() -> bool:
        found[:] = os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)
        return found[0] != 0

    wait_until(has_changed)
    assert os.WIFSTOPPED(found[1]), f"the process ended early: {process.communicate()}"
    return process


def _start(arguments: list[str], cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until `condition` holds; fail if `process` ends before, or after `TIMEOUT_SECONDS`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended early: {process.communicate()}")
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)
