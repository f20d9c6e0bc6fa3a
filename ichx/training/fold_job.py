"""A fold as a job of an engine: the command that runs it, and what its log says when it fails."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.engine import Job, JobResult
from ichx.training.options import RunOptions

if TYPE_CHECKING:
    from ichx.workspace import Workspace


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
    return f"{ended}: {_last_words(log, start)}"


def _last_words(log: Path, start: int) -> str:
    """Return the line of the log's last `error:`, or its last line."""
    if not log.exists():
        return "it said nothing"
    with log.open("rb") as handle:
        handle.seek(start)
        lines = [line.strip() for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
