"""A full disk: no file of a process grows over a limit, so that writes fail as they do when space runs out."""

import resource
import subprocess
import sys
from pathlib import Path

from conftest import Outcome, clean_environment


def run_with_limit(kilobytes: int, *command: object, cwd: Path, **extra: str) -> Outcome:
    """Run Python with `command` as its arguments; no file that it writes may exceed `kilobytes`."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1", **extra),
        capture_output=True,
        text=True,
        timeout=900,
        preexec_fn=limit,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
