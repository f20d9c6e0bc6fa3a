"""The Slurm engine: job arrays, queued and followed with Slurm's own commands.

All nodes see the workspace and the Python environment under the same paths. The exit codes come from the wrapper
(`ichx.jobs.wrapper`), because Slurm forgets finished jobs after minutes and many sites have no accounting.
"""

import contextlib
import json
import math
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ichx.errors import CorruptFileError, IchxError, NotFoundError, StorageError
from ichx.files import write_text
from ichx.jobs.engine import CANCELLED, LOST, Job, JobResult, JobState, wait_by_polling
from ichx.jobs.engine_settings import SlurmSettings
from ichx.jobs.job_folder import JobFolder
from ichx.jobs.slurm_commands import (
    QueueEntry,
    array_comments,
    call_slurm,
    cancel_queued,
    final_state,
    find_arrays,
    max_array_size,
    own_environment,
    read_nodes,
    read_queue,
    require_slurm,
    signal_wrappers,
)
from ichx.jobs.slurm_script import (
    SCRIPT_FILE,
    ArrayRequest,
    array_options,
    batch_script,
    check_request,
    exported_names,
    sbatch_options,
)

if TYPE_CHECKING:
    from ichx.workspace import Workspace

POLL_SECONDS: Final = 5.0
"""Time for which `poll` uses an answer of Slurm again."""
WAIT_SECONDS: Final = 0.5
AT_A_TIME: Final = 500
"""Number of jobs in one command of Slurm."""

_RECORD: Final = "slurm.json"
"""File of a submission with its arrays: their ids and the position of the first job of each."""
_INDEX: Final = ".slurm"
"""Folder with one file per array, which names its submission."""
_KILLED: Final = frozenset({"OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL"})


@dataclass(frozen=True)
class _Place:
    """The files of one job."""

    folder: JobFolder
    position: int
    array: int


class SlurmEngine:
    """Submits jobs as arrays and follows them, also those of other processes."""

    name = "slurm"
    outlives_submitter = True

    def __init__(self, workspace: "Workspace", settings: SlurmSettings) -> None:
        """Create an engine.

        Raises:
            MissingDependencyError: The commands of Slurm are not on the path.
        """
        require_slurm()
        self._root, self._jobs_dir, self._settings = workspace.root, workspace.jobs_dir, settings
        self._lock = threading.Lock()
        self._arrays: dict[int, tuple[JobFolder, int]] = {}
        self._answer: tuple[float, dict[str, QueueEntry]] = (-math.inf, {})
        self._asked: set[int] = set()
        """Arrays in the last answer of Slurm."""
        self._to_stop: dict[str, str] = {}
        """Jobs to stop by handle, and the name of the signal for each."""
        self._stopper: threading.Thread | None = None
        self._closed = False

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        """See `Engine.submit`. More jobs than fit in one array become several, one after the other with `at_once`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        if not jobs:
            return []
        settings, resources = self._settings, jobs[0].resources
        check_request(settings, resources, read_nodes())
        submission = submission or f"ichx-{secrets.token_hex(6)}"
        size = min(max_array_size(), len(jobs))
        folder = JobFolder.create(
            self._jobs_dir, submission, jobs, options={"max_requeues": settings.max_requeues, "engine": self.name}
        )
        arrays: list[tuple[int, int]] = []
        try:
            script = folder.path / SCRIPT_FILE
            write_text(script, batch_script(settings, self._root, folder.path), "the batch script")
            environment = own_environment()
            names = ",".join(exported_names(settings, environment)) or "NONE"
            common = [*sbatch_options(settings, resources), f"--export={names}"]
            for first in range(0, len(jobs), size):
                after = arrays[-1][0] if arrays and at_once else None
                request = ArrayRequest(submission, first, min(size, len(jobs) - first), at_once, after)
                options = [*array_options(request, folder.path), *common]
                answer = call_slurm("sbatch", *options, str(script), str(first), environment=environment)
                arrays.append((int(answer.strip().split("\n")[-1].split(";")[0]), first))
            self._record(folder, arrays)
        except BaseException:
            with contextlib.suppress(IchxError):
                if arrays:
                    cancel_queued([f"slurm:{array}" for array, _ in arrays])
            folder.remove()
            raise
        return [f"slurm:{array}_{index}" for array, first in arrays for index in range(min(size, len(jobs) - first))]

    def find(self, submission: str) -> list[str] | None:
        """See `Engine.find`."""
        folder = JobFolder(self._jobs_dir / submission)
        if not folder.path.is_dir():
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            arrays = [(int(array), int(first)) for array, first in json.loads((folder.path / _RECORD).read_bytes())]
            return self._handles(folder, arrays)
        arrays = []
        if queued := find_arrays(submission):
            comments = array_comments(queued)
            firsts = {array: comments.get(array, "").removeprefix("ichx ") for array in queued}
            arrays = [(array, int(first)) for array, first in firsts.items() if first.isdecimal()]
            if not arrays and len(queued) == 1:  # the site has replaced the comment
                arrays = [(queued[0], 0)]
        else:  # Slurm has forgotten them
            for position, handle in folder.handles().items():
                with contextlib.suppress(NotFoundError):
                    array, index = _parse(handle)
                    arrays.append((array, position - index))
        if not arrays:
            return None
        arrays = sorted(set(arrays), key=lambda item: item[1])
        self._record(folder, arrays)
        return self._handles(folder, arrays)

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """See `Engine.states`."""
        places = {handle: self._place(handle) for handle in handles}
        folders = {place.folder.path: place.folder for place in places.values()}
        ended = {path: folder.ended() for path, folder in folders.items()}
        open_ = [handle for handle, place in places.items() if place.position not in ended[place.folder.path]]
        answer = self._ask([places[handle].array for handle in open_])
        found: dict[str, JobState] = dict.fromkeys(handles, "ended")
        for handle in open_:
            found[handle] = self._judge(handle, places[handle], answer)[0]
        return found

    def poll(self, handle: str) -> JobResult | None:
        """See `Engine.poll`."""
        place = self._place(handle)
        if (result := place.folder.result(place.position)) is not None:
            return self._explain(handle, place, result)
        asked, answer = self._answer
        if time.monotonic() - asked > POLL_SECONDS or place.array not in self._asked:
            try:
                answer = self._ask([*(self._asked if asked > 0 else ()), place.array])
            except IchxError:  # Slurm is away: the job may have ended or not
                return None
        return self._judge(handle, place, answer)[1]

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        """See `Engine.wait`."""
        return wait_by_polling(lambda: self.poll(handle), timeout, WAIT_SECONDS)

    def cancel(self, handle: str) -> None:
        """See `Engine.cancel`. The job is not queued again."""
        self._stop(handle, signal.SIGTERM)

    def kill(self, handle: str) -> None:
        """See `Engine.kill`."""
        self._stop(handle, signal.SIGKILL)

    def close(self) -> None:
        """Take no more jobs, and return when Slurm has got all requests to stop jobs; jobs continue."""
        self._closed = True
        with self._lock:
            stopper = self._stopper
        if stopper is not None:
            stopper.join()

    def _ask(self, arrays: Sequence[int]) -> dict[str, QueueEntry]:
        """Return what Slurm knows of arrays."""
        answer = read_queue(arrays)
        self._answer, self._asked = (time.monotonic(), answer), set(arrays)
        return answer

    def _judge(self, handle: str, place: _Place, answer: dict[str, QueueEntry]) -> tuple[JobState, JobResult | None]:
        """Return the state of a job without a result, and the result that follows from what Slurm knows, if any."""
        folder, position = place.folder, place.position
        entry = answer.get(handle)
        if entry is not None and entry.active is not None:
            return entry.active, None
        if not folder.path.is_dir():  # the user has removed it
            return "lost", JobResult(-signal.SIGKILL, 0.0, LOST)
        start = folder.start(position)
        if entry is not None and not entry.started and start is None:
            return self._conclude(place, _result_of(entry.state))
        if entry is None and start is None and folder.is_cancelled(position):
            return self._conclude(place, _result_of(CANCELLED))
        if entry is None and folder.path.stat().st_uid != os.getuid():  # a site may hide the jobs of others
            return ("running" if start else "queued"), None
        seen = folder.created() if start is None else start.seen
        if folder.now() - seen < self._settings.lost_after:
            return ("running" if start else "queued"), None
        if (result := folder.result(position)) is not None:  # it has become visible
            return "ended", result
        if entry is not None:
            return self._conclude(place, _result_of(entry.state))
        if start is None and f"slurm:{place.array}" in answer:
            return self._conclude(place, _result_of(CANCELLED))  # Slurm forgets elements that were never started
        if folder.is_cancelled(position):
            return self._conclude(place, _result_of(CANCELLED))
        if (state := final_state(handle)) is not None:
            return self._conclude(place, _result_of(state))
        return "lost", JobResult(-signal.SIGKILL, 0.0, LOST)

    def _conclude(self, place: _Place, result: JobResult) -> tuple[JobState, JobResult]:
        """Save the result of a job whose wrapper can save none."""
        with contextlib.suppress(IchxError):
            place.folder.record_result(place.position, result)
        return "ended", result

    def _explain(self, handle: str, place: _Place, result: JobResult) -> JobResult:
        """Return `result` with Slurm's reason why the job was killed, if it has one."""
        if result.exit_code != -signal.SIGKILL or result.reason or place.folder.is_cancelled(place.position):
            return result
        with contextlib.suppress(IchxError):
            entry = read_queue([place.array]).get(handle)
            state = final_state(handle) if entry is None else entry.state
            if state in _KILLED:
                result = replace(result, reason=state)
                place.folder.record_result(place.position, result)
        return result

    def _stop(self, handle: str, number: signal.Signals) -> None:
        place = self._place(handle)
        if place.folder.result(place.position) is not None:
            return
        if number == signal.SIGKILL or not place.folder.is_cancelled(place.position):
            place.folder.send(place.position, number)
        with self._lock:
            self._to_stop[handle] = "USR2" if number == signal.SIGKILL else "USR1"
            if self._stopper is None:
                self._stopper = threading.Thread(target=self._send_requests, name="ichx-slurm-stop")
                self._stopper.start()

    def _send_requests(self) -> None:
        """Ask Slurm to stop jobs, many with one command; the request in the folder suffices if that fails."""
        while True:
            with self._lock:
                requests, self._to_stop = self._to_stop, {}
                if not requests:
                    self._stopper = None
                    return
            with contextlib.suppress(IchxError):
                known = read_queue(_parse(handle)[0] for handle in requests)
                states = {handle: known[handle].active for handle in requests if handle in known}
                for part in _parts([handle for handle, state in states.items() if state == "queued"]):
                    with contextlib.suppress(IchxError):
                        cancel_queued(part)
                for name in ("USR1", "USR2"):
                    running = [h for h, state in states.items() if state == "running" and requests[h] == name]
                    for part in _parts(running):
                        signal_wrappers(part, name)

    def _record(self, folder: JobFolder, arrays: Sequence[tuple[int, int]]) -> None:
        """Record the arrays of a submission."""
        for array, first in arrays:
            content = {"submission": folder.path.name, "first": first}
            write_text(self._jobs_dir / _INDEX / str(array), json.dumps(content) + "\n", "the job array")
        write_text(folder.path / _RECORD, json.dumps(arrays) + "\n", "the job arrays")

    def _handles(self, folder: JobFolder, arrays: Sequence[tuple[int, int]]) -> list[str]:
        ends = [first for _, first in arrays[1:]] + [folder.count()]
        pairs = zip(arrays, ends, strict=True)
        return [f"slurm:{array}_{index}" for (array, first), end in pairs for index in range(end - first)]

    def _place(self, handle: str) -> _Place:
        """Return the files of a job.

        Raises:
            NotFoundError: The handle is unknown in this workspace.
            CorruptFileError: The record of its array is damaged.
        """
        array, index = _parse(handle)
        if array not in self._arrays:
            path = self._jobs_dir / _INDEX / str(array)
            try:
                found = json.loads(path.read_bytes())
                self._arrays[array] = JobFolder(self._jobs_dir / found["submission"]), int(found["first"])
            except FileNotFoundError as error:
                raise NotFoundError(f"Unknown job: {handle!r}.", "`ichx jobs` lists the jobs.") from error
            except OSError as error:
                raise StorageError(f"Cannot read {path}: {error.strerror}.", "Check the workspace.") from error
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise CorruptFileError(f"{path} is damaged.", "Cancel the job with `scancel`.") from error
        folder, first = self._arrays[array]
        return _Place(folder, first + index, array)


def _parse(handle: str) -> tuple[int, int]:
    """Return the array and the index in the handle of a job."""
    array, _, index = handle.removeprefix("slurm:").partition("_")
    if not array.isdecimal() or not index.isdecimal():
        raise NotFoundError(f"Unknown job: {handle!r}.", "`ichx jobs` lists the jobs.")
    return int(array), int(index)


def _parts(handles: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(handles), AT_A_TIME):
        yield handles[start : start + AT_A_TIME]


def _result_of(state: str) -> JobResult:
    """Return the result of a job whose end only Slurm knows."""
    if state == "COMPLETED":
        return JobResult(1, 0.0, "its result is missing")
    return JobResult(-signal.SIGKILL if state in _KILLED else 1 if state == "FAILED" else -signal.SIGTERM, 0.0, state)
