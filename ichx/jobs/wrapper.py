"""Executes one job of a submission where a scheduler starts it: `python -m ichx.jobs.wrapper FOLDER POSITION`.

It passes stop requests on to the job and saves the exit code, because many schedulers forget it. SIGTERM is a request
of the scheduler: a job under Slurm that stops with a checkpoint is queued again. SIGUSR1 and SIGUSR2, or the file
`N.signal`, are requests of ichx to stop or to kill the job. Nothing here imports more than the standard library.
"""

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import ichx
from ichx.child_processes import JOB, child_environment
from ichx.errors import IchxError
from ichx.files import write_text
from ichx.jobs.engine import CANCELLED
from ichx.jobs.job_folder import HEARTBEAT_SECONDS, JOBS_FILE, VISIBLE_SECONDS

TICK_SECONDS: Final = 0.1
WRITE_SECONDS: Final = 300.0
"""Time for which saving the result is tried again, e.g. while a quota is exceeded."""
STOPPED_CODES: Final = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit codes of a job that stopped after SIGTERM: before it handled signals, or with a checkpoint."""


class _Wrapper:
    def __init__(self, folder: Path, position: int) -> None:
        self._folder, self._position = folder, position
        self._began = time.monotonic()
        self._requested = 0
        """The strongest signal that was requested."""
        self._by_scheduler = False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self._by_scheduler = True
        self._request(signal.SIGKILL if number == signal.SIGUSR2 else signal.SIGTERM)

    def _request(self, number: int) -> None:
        if self._requested != signal.SIGKILL:
            self._requested = number

    def run(self) -> int:
        """Execute the job and save its result; return the exit code for the scheduler."""
        try:
            task = self._read_task()
        except (OSError, ValueError, LookupError, TypeError) as error:
            problem = f"{socket.gethostname()} cannot read {self._folder / JOBS_FILE}: {error}"
            return self._end(1, problem, _slurm_handle())
        if task is None:
            print(f"error: {socket.gethostname()} does not see {self._folder / JOBS_FILE}.", file=sys.stderr)
            return 1
        content, job = task
        handle = job["handle"] or _slurm_handle()
        (self._folder / f"{self._position}.exit").unlink(missing_ok=True)  # of a job that was queued again
        self._write("state", {"host": socket.gethostname(), "pid": os.getpid(), "handle": handle})
        self._read_request()
        if self._requested and not self._by_scheduler:
            self._began = time.monotonic()  # the job never starts: its seconds are 0
            return self._end(-self._requested, None, handle)
        log = Path(job["log"])
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                if content["version"] != ichx.__version__:
                    problem = (
                        f"ichx {content['version']} submitted this job, and {socket.gethostname()} has "
                        f"ichx {ichx.__version__} in {sys.prefix}."
                    )
                    output.write(f"error: {problem} Install the same version on both.\n".encode())
                    return self._end(1, problem, handle)
                try:
                    child = self._start(job, handle, output.fileno())
                except OSError as error:
                    output.write(f"cannot start {job['argv'][0]}: {error.strerror}\n".encode())
                    return self._end(127, None, handle)
        except OSError as error:
            return self._end(127, f"cannot write {log}: {error.strerror}", handle)
        timed_out = self._wait(child, job["seconds"] if content["options"].get("enforce_limit") else None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # children that it has left
        reason = "TIMEOUT" if timed_out else None
        if child.returncode in STOPPED_CODES and self._by_scheduler:
            self._read_request()
            limit = content["options"].get("max_requeues")
            if self._is_cancelled():
                reason = CANCELLED
            elif limit is not None:
                reason = self._requeue(int(limit))
                if reason is None:
                    (self._folder / f"{self._position}.state").unlink(missing_ok=True)  # it waits in the queue again
                    return 128 + signal.SIGTERM
        elif child.returncode == -signal.SIGKILL and self._requested != signal.SIGKILL and _out_of_memory():
            reason = "OUT_OF_MEMORY"
        return self._end(child.returncode, reason, handle)

    def _read_task(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the content of the submission and this job, None if this machine does not see them."""
        while True:
            try:
                content = json.loads((self._folder / JOBS_FILE).read_bytes())
                return content, content["jobs"][self._position]
            except FileNotFoundError:
                if time.monotonic() - self._began > VISIBLE_SECONDS:
                    return None
                time.sleep(1.0)

    def _start(self, job: Mapping[str, Any], handle: str | None, output: int) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **job["environment"], **child_environment()}
        if handle is not None:
            environment[JOB] = handle
        if cpus := environment.get("SLURM_CPUS_PER_TASK"):  # sites without cpusets show a job all cores of the node
            environment.setdefault("OMP_NUM_THREADS", cpus)
        # The signals that this process handles have their defaults in the job.
        return subprocess.Popen(
            job["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=environment,
        )

    def _wait(self, child: "subprocess.Popen[bytes]", limit: float | None) -> bool:
        """Pass requests on until the job has ended; return whether it reached its time limit."""
        sent, timed_out, heartbeat = 0, False, time.monotonic()
        while child.poll() is None:
            now = time.monotonic()
            if now - heartbeat > HEARTBEAT_SECONDS:
                heartbeat = now
                with contextlib.suppress(OSError):
                    os.utime(self._folder / f"{self._position}.state")
            self._read_request()
            if limit is not None and now - self._began > limit and not self._requested:
                timed_out = True
                self._request(signal.SIGTERM)
            if self._requested and self._requested != sent:
                sent = self._requested
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, sent)
            time.sleep(TICK_SECONDS)
        return timed_out

    def _is_cancelled(self) -> bool:
        return (self._folder / f"{self._position}.signal").exists()

    def _read_request(self) -> None:
        """Read the file by which ichx asks a job to stop: signals of Slurm are lost while a job starts."""
        with contextlib.suppress(OSError, ValueError):
            number = int((self._folder / f"{self._position}.signal").read_text())
            self._request(signal.SIGKILL if number == signal.SIGKILL else signal.SIGTERM)

    def _requeue(self, limit: int) -> str | None:
        """Queue this job of Slurm again, unless it was cancelled; return why not, None if it is queued again."""
        id_, restarts = _slurm_id(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if id_ is None:
            return "stopped by the scheduler"
        shown = _call("scontrol", "show", "job", id_)
        facts = dict(part.split("=", 1) for part in shown.split() if "=" in part)
        state, why = facts.get("JobState", "unknown"), facts.get("Reason", "")
        if int(facts.get("Restarts", restarts)) > restarts or state in ("PENDING", "REQUEUED", "REQUEUE_HOLD"):
            return None  # Slurm has done it
        preempted = state == "PREEMPTED" or facts.get("PreemptTime", "None") != "None"
        timed_out = state == "TIMEOUT" or why == "TimeLimit"
        if state in ("CANCELLED", "COMPLETING") and not preempted and not timed_out:
            return CANCELLED
        end = "PREEMPTED" if preempted else "TIMEOUT" if timed_out else "stopped by the scheduler"
        if restarts >= limit:
            return f"{end}, after {restarts} requeues"
        refusal = _call("scontrol", "requeue", id_, errors=True)
        return f"{end}, and the requeue failed: {refusal}" if refusal else None

    def _end(self, code: int, reason: str | None, handle: str | None) -> int:
        """Save the result; return the exit code for the scheduler."""
        seconds = round(time.monotonic() - self._began, 3)
        content = {"exit_code": code, "seconds": seconds, "reason": reason, "handle": handle}
        self._write("exit", {**content, "host": socket.gethostname(), "python": platform.python_version()})
        return 128 - code if code < 0 else code

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write a file of this job; try again for a while if that fails."""
        began = time.monotonic()
        while True:
            try:
                write_text(self._folder / f"{self._position}.{kind}", json.dumps(content) + "\n", f"the {kind}")
            except IchxError as error:
                print(f"error: {error.problem}", file=sys.stderr, flush=True)
                if kind != "exit" or time.monotonic() - began > WRITE_SECONDS:
                    return
                time.sleep(5.0)
            else:
                return


def _slurm_id() -> str | None:
    """Return the id of this job under Slurm. The plain id of the last element of an array names all of the array."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")


def _slurm_handle() -> str | None:
    id_ = _slurm_id()
    return None if id_ is None else f"slurm:{id_}"


def _call(*command: str, errors: bool = False) -> str:
    """Return the output of a program, or with `errors` its error message, empty if it succeeded."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60.0)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error) if errors else ""
    if errors:
        return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def _out_of_memory() -> bool:
    """Return whether the kernel has killed a process of this job's control group for its memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split("::", 1)[1].lstrip("/")
        events = (Path("/sys/fs/cgroup") / group / "memory.events").read_text().split()
        return int(events[events.index("oom_kill") + 1]) > 0
    return False


def main() -> int:
    """Execute the job that the arguments name."""
    folder, position = sys.argv[1:]
    return _Wrapper(Path(folder), int(position)).run()


if __name__ == "__main__":
    sys.exit(main())
