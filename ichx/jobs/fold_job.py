"""A fold as a job of an engine: the command that runs it, and what its log says when it fails."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.experiments.loggers.run_log import unstamped
from ichx.jobs import Job, JobResult
from ichx.training.run_options import RunOptions

if TYPE_CHECKING:
    from ichx.workspace import Workspace

TAIL_BYTES = 16_384
"""How much of a log's end is looked at."""


def fold_job(
    workspace: "Workspace",
    experiment: int,
    fold: int,
    options: RunOptions,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Return the job that runs one fold of an experiment; run again, it goes on."""
    argv = (sys.executable, "-m", "ichx", "run", str(experiment), "--fold", str(fold), *options.arguments)
    variables = {"ICHX_WORKSPACE": str(workspace.root), **(environment or {})}
    return Job(argv, log, f"experiment {experiment}, fold {fold}", variables)


def log_size(job: Job) -> int:
    """Return how long a job's log is before it begins, 0 where there is none: what `failure` reads from."""
    return job.log.stat().st_size if job.log.exists() else 0


def failure(result: JobResult, log: Path, start: int) -> str:
    """Return in a line how a job failed and the error that its log tells from byte `start` on."""
    ended = f"signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
    lines = _last_lines(log, start)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"{ended}: {(errors or lines or ['it said nothing'])[-1]}"


def last_line(log: Path, start: int) -> str:
    """Return what a job has said last, in a log from byte `start` on; nothing where it has not."""
    return (_last_lines(log, start) or [""])[-1]


def _last_lines(log: Path, start: int) -> list[str]:
    """Return the last whole lines of a log that are not empty, oldest first."""
    if not log.exists():
        return []
    with log.open("rb") as handle:
        handle.seek(max(start, handle.seek(0, os.SEEK_END) - TAIL_BYTES))
        text = handle.read().decode(errors="replace")
    whole = [line.strip() for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
    return [unstamped(line) for line in whole]
