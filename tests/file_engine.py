"""An engine for tests of jobs that outlive their submitter: detached processes, and files with their exit codes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ichx.errors import ConflictError
from ichx.jobs import Job, JobResult, JobState

_WRAPPER = """
import fcntl, json, os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1]); job = json.loads((folder / "job.json").read_text())
(folder / "pid").write_text(str(os.getpid()))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
def end(code):
    (folder / "draft").write_text(str(code)); (folder / "draft").rename(folder / "exit_code"); sys.exit()
slots = [open(folder.parent / f"slot-{n}", "w") for n in range(job["at_once"])]
def take():
    for slot in slots:
        try: fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB); return True
        except BlockingIOError: pass
while stopped or (folder.parent.parent / "hold").exists() or not take():
    if stopped or (folder / "cancel").exists(): end(-15)
    time.sleep(0.02)
pathlib.Path(job["log"]).parent.mkdir(parents=True, exist_ok=True)
with open(job["log"], "ab") as log:
    child = subprocess.Popen(job["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
                             env={**os.environ, **job["environment"], "ICHX_JOB": job["handle"]})
(folder / "child").write_text(str(child.pid))
asked = False
while child.poll() is None:
    if not asked and (stopped or (folder / "cancel").exists()):
        asked = True; os.killpg(child.pid, signal.SIGTERM)
    time.sleep(0.02)
end(child.returncode)
"""


class FileEngine:
    """Runs jobs under `folder`. A file `hold` in it keeps jobs queued; `refusal` is the error of all submissions."""

    name = "file"
    outlives_submitter = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusal: str | None = None
        self.asked = 0
        """Number of calls of `states`."""
        folder.mkdir(parents=True, exist_ok=True)

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        if self.refusal is not None:
            raise ConflictError(self.refusal, "Change the settings.")
        assert submission is not None
        self.resources = jobs[0].resources
        handles = [f"file:{submission}_{n}" for n in range(len(jobs))]
        for handle, job in zip(handles, jobs, strict=True):
            home = self._home(handle)
            home.mkdir(parents=True)
            given = {"argv": job.argv, "log": str(job.log), "environment": dict(job.environment), "handle": handle}
            (home / "job.json").write_text(json.dumps({**given, "at_once": at_once or len(jobs)}))
            command = [sys.executable, "-c", _WRAPPER, str(home)]
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.Popen(command, start_new_session=True, **quiet)
        return handles

    def find(self, submission: str) -> list[str] | None:
        found = sorted(self.folder.glob(f"{submission}/*/job.json"), key=lambda path: int(path.parent.name))
        return [f"file:{submission}_{path.parent.name}" for path in found] or None

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        self.asked += 1
        return {handle: self._state(self._home(handle)) for handle in handles}

    def _state(self, home: Path) -> JobState:
        if (home / "exit_code").exists():
            return "ended"
        if not home.exists() or (home / "lost").exists():
            return "lost"
        return "running" if (home / "child").exists() else "queued"

    def poll(self, handle: str) -> JobResult | None:
        with contextlib.suppress(FileNotFoundError):
            return JobResult(int((self._home(handle) / "exit_code").read_text()), 1.0)
        return None

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (result := self.poll(handle)) is None and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.02)
        return result

    def cancel(self, handle: str) -> None:
        (self._home(handle) / "cancel").touch()

    def kill(self, handle: str) -> None:
        """Kill the job and its wrapper, as a node that dies does: no exit code is written, and the job is lost."""
        home = self._home(handle)
        for name in ("pid", "child"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.killpg(int((home / name).read_text()), signal.SIGKILL)
        (home / "lost").touch()

    def close(self) -> None:
        """Jobs continue."""

    def _home(self, handle: str) -> Path:
        submission, _, number = handle.removeprefix("file:").rpartition("_")
        return self.folder / submission / number
