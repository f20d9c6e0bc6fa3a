"""The commands of Slurm, and what their output means."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ichx.errors import (
    ConflictError,
    IchxError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    ProcessError,
    ResourceError,
)
from ichx.jobs.engine import JobState

TIMEOUT_SECONDS: Final = 120.0
SIGNAL_SECONDS: Final = 2.0
"""Time for `scancel --signal`: it delivers at once, but repeats that while other elements of the array are queued."""

QUEUED: Final = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
RUNNING: Final = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
)
"""Words of Slurm for jobs that have not ended."""

_KEPT_VARIABLES: Final = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
_REFUSALS: Final[tuple[tuple[str, type[IchxError], str], ...]] = (
    ("invalid partition", NotFoundError, "Set `partition` in [engine.slurm]; `sinfo -s` lists the partitions."),
    (
        "invalid account",
        NotFoundError,
        "Set `account`, `qos`, `partition` in [engine.slurm] to a valid combination.",
    ),
    ("invalid qos", NotFoundError, "Set `qos` in [engine.slurm]; `sacctmgr show qos` lists them."),
    ("invalid feature", NotFoundError, "Set `constraint` in [engine.slurm]; `sinfo -o %f` lists the features."),
    (
        "invalid generic resource",
        ResourceError,
        "Set `gpu_option`, `gpu_type` in [engine.slurm]; see `sinfo -o %G`.",
    ),
    ("node configuration is not available", ResourceError, "Request less; `ichx engine check slurm` compares."),
    ("memory specification", ResourceError, "Request less memory."),
    ("more processors", ResourceError, "Request fewer CPUs."),
    (
        "time limit",
        ResourceError,
        "Set a shorter `time` in [engine.slurm] or --time; see `sinfo -o '%P %l'`.",
    ),
    ("job limit", ConflictError, "Wait until some of your jobs have ended, or submit fewer."),
    ("submitjob", ConflictError, "Wait until some of your jobs have ended, or submit fewer."),
    ("resource temporarily unavailable", ConflictError, "The queue of Slurm is full. Submit fewer jobs or wait."),
    ("unrecognized option", InvalidInputError, "Correct `options` in [engine.slurm] or --engine-option."),
    ("unable to contact", ProcessError, "Check that Slurm's controller is up: `scontrol ping`."),
)
"""Parts of error messages of Slurm in lower case, the error for each, and its remedy."""


@dataclass(frozen=True)
class QueueEntry:
    """What Slurm knows of a job."""

    state: str
    """Slurm's word, e.g. `NODE_FAIL`."""
    started: bool
    """Whether it has ever been on a node."""

    @property
    def active(self) -> JobState | None:
        """`queued` or `running`; None after its end."""
        return "queued" if self.state in QUEUED else "running" if self.state in RUNNING else None


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition with equal resources."""

    partition: str
    is_default: bool
    cpus: int
    memory: int
    """Bytes."""
    gpus: int
    gpu_types: tuple[str, ...]
    time_limit: float
    """Seconds; infinite without a limit."""


def require_slurm() -> None:
    """Raise `MissingDependencyError` if the commands of Slurm are not on the path."""
    for program in ("sbatch", "squeue", "scancel", "scontrol"):
        if shutil.which(program) is None:
            raise MissingDependencyError(
                f"The program {program} of Slurm is not on the path.",
                "Use a login node of the cluster, or load the module that has Slurm's commands.",
            )


def call_slurm(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the output of a command of Slurm.

    Raises:
        MissingDependencyError: The program is not on the path.
        IchxError: The command failed; the type depends on its message.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            start_new_session=True,  # Ctrl-C must not end a submission halfway
            env=dict(environment) if environment is not None else own_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"{command[0]} did not answer for {TIMEOUT_SECONDS:.0f} s.", "Try again later.") from error
    except OSError as error:
        require_slurm()
        raise ProcessError(f"Cannot start {command[0]}: {error.strerror}.", "Check the path.") from error
    if done.returncode == 0:
        return done.stdout
    raise _refusal(command[0], done.stderr)


def _refusal(program: str, output: str) -> IchxError:
    """Return the error for the messages of a command that failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [re.sub(r"^\w+: (error: |fatal: )?", "", line) for line in lines if not line.startswith("Try ")]
    message = "; ".join(dict.fromkeys(errors)).rstrip(".") or "no message"
    text = message.lower()
    for part, kind, remedy in _REFUSALS:
        if part in text:
            return kind(f"Slurm refuses the request: {message}.", remedy)
    return ProcessError(f"{program} failed: {message}.", "Check Slurm: `scontrol ping`, `ichx engine check slurm`.")


def own_environment() -> dict[str, str]:
    """Return the environment for commands of Slurm: inside a job, without the variables of that job."""
    inside = "SLURM_JOB_ID" in os.environ
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (inside and name.startswith("SLURM_") and name not in _KEPT_VARIABLES)
    }
    return {**kept, "LC_ALL": "C"}


def read_queue(arrays: Iterable[int]) -> dict[str, QueueEntry]:
    """Return what Slurm knows of the elements of arrays, by handle; an array of which it knows anything has `slurm:ID`.

    Raises:
        ProcessError: Slurm does not answer.
    """
    ids = ",".join(map(str, sorted(set(arrays))))
    if not ids:
        return {}
    try:
        text = call_slurm("squeue", "-h", "-a", "-r", "--states=all", f"--jobs={ids}", "-o", "%F|%K|%T|%N|%S")
    except ProcessError as error:
        if "invalid job id" in error.problem.lower():
            return {}
        raise
    return parse_queue(text)


def parse_queue(text: str) -> dict[str, QueueEntry]:
    """Return the entries in lines of `squeue -o %F|%K|%T|%N|%S`, see `read_queue`."""
    found: dict[str, QueueEntry] = {}
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 5:
            continue
        array, index, state, nodes, _ = parts
        entry = QueueEntry(state.split()[0] if state else "UNKNOWN", nodes not in ("", "(null)", "n/a"))
        found[f"slurm:{array}"] = entry
        if index.isdecimal():
            found[f"slurm:{array}_{index}"] = entry
    return found


def find_arrays(submission: str) -> list[int]:
    """Return the ids of the arrays whose job name is `submission`."""
    text = call_slurm("squeue", "-h", "-a", "--states=all", f"--name={submission}", "-o", "%F")
    return sorted({int(line) for line in text.split() if line.isdecimal()})


def array_comments(arrays: Sequence[int]) -> dict[int, str]:
    """Return the comment of each array that Slurm knows."""
    text = call_slurm("squeue", "-h", "-a", "--states=all", f"--jobs={','.join(map(str, arrays))}", "-o", "%F|%k")
    lines = [line.strip().partition("|") for line in text.splitlines()]
    return {int(array): comment for array, _, comment in lines if array.isdecimal()}


def final_state(handle: str) -> str | None:
    """Return the word of Slurm's accounting for the end of a job, None where there is no accounting."""
    if shutil.which("sacct") is None:
        return None
    try:
        text = call_slurm("sacct", "-n", "-P", "-X", "-j", handle.removeprefix("slurm:"), "-o", "State")
    except IchxError:
        return None
    words = text.split()
    return words[0] if words and words[0] not in QUEUED | RUNNING else None


def max_array_size() -> int:
    """Return the largest number of elements of an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call_slurm("scontrol", "show", "config"), re.MULTILINE)
    return max(int(found[1]) if found else 1001, 1)


def cancel_queued(handles: Sequence[str]) -> None:
    """Remove jobs from the queue."""
    call_slurm("scancel", *(handle.removeprefix("slurm:") for handle in handles))


def signal_wrappers(handles: Sequence[str], signal_name: str) -> None:
    """Send a signal to the batch processes of running jobs, not to the processes that these have started."""
    ids = [handle.removeprefix("slurm:") for handle in handles]
    command = ("scancel", "--batch", f"--signal={signal_name}", *ids)
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SIGNAL_SECONDS, env=own_environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        pass  # the signal is delivered at once; the wrapper also finds the request in its folder


def read_nodes() -> list[NodeGroup]:
    """Return the resources of all partitions. Raises `ProcessError` if Slurm does not answer."""
    return parse_nodes(call_slurm("sinfo", "-h", "-a", "-e", "-o", "%P|%c|%m|%G|%l"))


def parse_nodes(text: str) -> list[NodeGroup]:
    """Return the groups in lines of `sinfo -o %P|%c|%m|%G|%l`."""
    groups = []
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) != 5:
            continue
        name, cpus, memory, gres, limit = parts
        gpus = re.findall(r"(?:^|,)gpu(?::([\w.-]+))??(?::(\d+))?(?=[(,]|$)", gres)
        groups.append(
            NodeGroup(
                partition=name.rstrip("*"),
                is_default=name.endswith("*"),
                cpus=int(re.sub(r"\D.*", "", cpus) or 0),
                memory=int(re.sub(r"\D.*", "", memory) or 0) << 20,
                gpus=sum(int(number or 1) for _, number in gpus),
                gpu_types=tuple(kind for kind, _ in gpus if kind),
                time_limit=parse_limit(limit),
            )
        )
    return groups


def parse_limit(text: str) -> float:
    """Return the seconds in a time limit of Slurm: `30:00`, `12:00:00`, `2-00:00:00`, `infinite`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if found is None:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(86400 * days + 3600 * hours + 60 * minutes + seconds)
