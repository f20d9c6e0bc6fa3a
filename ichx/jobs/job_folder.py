"""The folder of a submission: its jobs, and the states, requests and results of each, for schedulers on other machines.

`<workspace>/jobs/<submission>/` has these files. Each is written once or replaced atomically, so that network file
systems with close-to-open consistency suffice.

- `jobs.json`: the jobs, by position, and the version of ichx that submitted them.
- `N.state`: where job N started; its modification time is the last sign of life of its wrapper.
- `N.signal`: the number of the signal by which ichx asked job N to stop.
- `N.exit`: the result of job N.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ichx
from ichx.errors import ConflictError, CorruptFileError, StorageError
from ichx.files import write_text
from ichx.jobs.engine import Job, JobResult

JOBS_FILE: Final = "jobs.json"
VISIBLE_SECONDS: Final = 60.0
"""Time after which a network file system shows a new file on all machines."""
HEARTBEAT_SECONDS: Final = 20.0
"""Time between two signs of life of a wrapper."""


@dataclass(frozen=True)
class JobStart:
    """Where a job started, and when its wrapper was alive."""

    host: str
    handle: str | None
    seen: float
    """Seconds since the epoch, by the clock of the file system."""


class JobFolder:
    """Reads and writes the files of a submission."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        jobs_dir: Path,
        submission: str,
        jobs: Sequence[Job],
        *,
        handles: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "JobFolder":
        """Create the folder of a submission.

        Args:
            jobs_dir: Folder of all submissions.
            submission: Name of the folder.
            jobs: The jobs.
            handles: Their handles, if the scheduler does not assign them.
            options: Values for the wrapper: `enforce_limit`, whether it ends jobs at their time limit, and
                `max_requeues`.

        Raises:
            ConflictError: It exists.
            StorageError: It cannot be written.
        """
        path = jobs_dir / submission
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise ConflictError(f"Submission {submission} exists in {jobs_dir}.", "Use another name.") from error
        except OSError as error:
            raise StorageError(f"Cannot create {path}: {error.strerror}.", "Make the workspace writable.") from error
        described = [
            {
                "argv": list(job.argv),
                "log": str(job.log),
                "name": job.name,
                "environment": dict(job.environment),
                "seconds": job.resources.seconds,
                "handle": handles[position] if handles else None,
            }
            for position, job in enumerate(jobs)
        ]
        content = {
            "version": ichx.__version__,
            "python": platform.python_version(),
            "options": dict(options or {}),
            "jobs": described,
        }
        folder = cls(path)
        try:
            write_text(path / JOBS_FILE, json.dumps(content, indent=1) + "\n", "the jobs")
        except BaseException:
            folder.remove()
            raise
        return folder

    def remove(self) -> None:
        """Remove the folder of a submission that was never queued."""
        shutil.rmtree(self.path, ignore_errors=True)

    def count(self) -> int:
        """Return the number of jobs.

        Raises:
            CorruptFileError: The file of the jobs is damaged or missing.
        """
        path = self.path / JOBS_FILE
        try:
            return len(json.loads(path.read_bytes())["jobs"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptFileError(f"{path} is damaged or missing.", "Rerun the command that submitted it.") from error

    def command(self, position: int) -> list[str]:
        """Return the command by which a scheduler executes a job."""
        return [sys.executable, "-m", "ichx.jobs.wrapper", str(self.path), str(position)]

    def ended(self) -> set[int]:
        """Return the positions of the jobs with a result."""
        return self._positions(".exit")

    def result(self, position: int) -> JobResult | None:
        """Return the result of a job, None if there is none yet or its file is damaged."""
        found = self._read(f"{position}.exit") or {}
        code, seconds, reason = found.get("exit_code"), found.get("seconds"), found.get("reason")
        if not isinstance(code, int) or not isinstance(seconds, int | float) or not isinstance(reason, str | None):
            return None
        return JobResult(code, float(seconds), reason)

    def record_result(self, position: int, result: JobResult) -> None:
        """Save the result of a job whose wrapper has not saved one."""
        content = {"exit_code": result.exit_code, "seconds": result.seconds, "reason": result.reason}
        write_text(self.path / f"{position}.exit", json.dumps(content) + "\n", "the result of a job")

    def start(self, position: int) -> JobStart | None:
        """Return where a job started and when it was last seen; None before its start."""
        with suppress(OSError):
            seen = (self.path / f"{position}.state").stat().st_mtime
            if (found := self._read(f"{position}.state")) is not None:
                return JobStart(str(found.get("host")), found.get("handle"), seen)
        return None

    def handles(self) -> dict[int, str]:
        """Return the handles that started jobs have recorded, by position."""
        found = {position: self._read(f"{position}.state") for position in sorted(self._positions(".state"))}
        handles = {position: state.get("handle") for position, state in found.items() if state}
        return {position: handle for position, handle in handles.items() if isinstance(handle, str)}

    def is_cancelled(self, position: int) -> bool:
        """Return whether ichx has asked the job to stop."""
        return (self.path / f"{position}.signal").exists()

    def send(self, position: int, number: int) -> None:
        """Ask the wrapper of a job to send a signal to it; a job that has not started never will."""
        write_text(self.path / f"{position}.signal", f"{int(number)}\n", "the request to stop")

    def created(self) -> float:
        """Return when the submission was created, by the clock of the file system."""
        with suppress(FileNotFoundError):
            return (self.path / JOBS_FILE).stat().st_mtime
        return 0.0

    def now(self) -> float:
        """Return the time by the clock of the file system, which other machines compare with."""
        probe = self.path / f".clock-{os.getpid()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _positions(self, suffix: str) -> set[int]:
        """Return the positions of the jobs with a file of this kind, by one look at the folder."""
        paths = self.path.iterdir() if self.path.is_dir() else ()
        return {int(path.stem) for path in paths if path.suffix == suffix and path.stem.isdecimal()}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None
