"""The log of a job: its last line, and the reason why the job failed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ichx.experiments.loggers.run_log import unstamped
from ichx.jobs.engine import JobResult

TAIL_BYTES: Final = 16_384
"""Length of the end of a log that is read."""


@dataclass(frozen=True)
class JobLog:
    """The part of the file `path` that one job has written."""

    path: Path
    start: int
    """Byte at which the output of the job begins."""

    @classmethod
    def at_end(cls, path: Path) -> "JobLog":
        """Return the log of a job that will append to `path`."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def last_line(self) -> str:
        """Return the last complete line, or an empty string."""
        return (self._last_lines() or [""])[-1]

    def failure(self, result: JobResult) -> str:
        """Return in one line how the job ended and its last error."""
        ended = f"signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
        ended = result.reason or ended
        lines = self._last_lines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return f"{ended}: {(errors or lines or ['no output'])[-1].removesuffix('.')}"

    def _last_lines(self) -> list[str]:
        """Return the last complete lines that are not empty, oldest first."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as handle:
            handle.seek(max(self.start, handle.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = handle.read().decode(errors="replace").splitlines(keepends=True)
        return [unstamped(line.strip()) for line in lines if line.endswith("\n") and line.strip()]
