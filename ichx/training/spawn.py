"""Starts a run as several processes, on this machine or the nodes of a Slurm job, and ends all when one fails.

The parent imports no torch: it waits and forwards signals. The children find each other by torchrun's variables
(`ichx.training.distributed`), so that a run under torchrun needs no such parent.

On several nodes, the parent on the first node starts the processes of that node, and the same command on the other
nodes by srun. A signal of Slurm may reach only the first node: the processes agree on a stop after the next step.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from ichx.child_processes import child_environment
from ichx.errors import InvalidInputError, MissingDependencyError
from ichx.signals import handle_signals

TICK_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""Time that the other processes have to end when one has failed."""
STOP_CODES: Final = (129, 130, 143)
"""Exit codes of processes that stop on request."""


LEADER: Final = "ICHX_LEADER"
"""Environment variable with host and port of the first process, on the other nodes of a Slurm job."""


@dataclass(frozen=True)
class Node:
    """One of the machines that train a fold together."""

    rank: int
    nodes: int
    processes: int
    """Processes on each node."""
    host: str
    port: int
    """Where the first process of the first node accepts connections."""

    def environment(self, local: int) -> dict[str, str]:
        """Return torchrun's variables for the process with the rank `local` on this node."""
        allocated = os.environ.get("SLURM_CPUS_PER_TASK")
        threads = os.environ.get("OMP_NUM_THREADS", allocated)
        if threads == allocated:  # not a limit for each process, but all cores that the job or the machine has
            threads = str(max(int(allocated or os.cpu_count() or 1) // self.processes, 1))
        values = {
            "RANK": self.rank * self.processes + local,
            "LOCAL_RANK": local,
            "WORLD_SIZE": self.nodes * self.processes,
            "LOCAL_WORLD_SIZE": self.processes,
            "MASTER_ADDR": self.host,
            "MASTER_PORT": self.port,
            "OMP_NUM_THREADS": threads,
        }
        return {name: str(value) for name, value in values.items()}


def run_processes(argv: Sequence[str], count: int, nodes: int = 1) -> int:
    """Run `python -m ichx ARGV` as `count` processes on each of `nodes` nodes and wait for them.

    Standard output is that of the first process, standard error that of all.

    Args:
        argv: Arguments of the command.
        count: Processes per node.
        nodes: With more than 1, this process must belong to a Slurm job with as many nodes.

    Returns:
        The exit code of the first process if a signal has stopped it, otherwise of the first one that failed, or 0.

    Raises:
        InvalidInputError: There is no Slurm job with `nodes` nodes.
        MissingDependencyError: `srun` is missing.
    """
    node = _this_node(count, nodes)
    processes = {f"process {node.rank * count + local}": _start(argv, node, local) for local in range(count)}
    children = tuple(processes.values())
    if nodes > 1 and node.rank == 0:
        processes["srun"] = _start_other_nodes(argv, node)

    stopping = threading.Event()

    def forward(number: int, _frame: FrameType | None) -> None:
        stopping.set()
        for process in children:  # not srun, which kills its processes when it receives SIGTERM
            _signal(process, signal.Signals(number))

    with handle_signals(forward):
        try:
            return _wait(processes, stopping)
        finally:
            for process in processes.values():
                _signal(process, signal.SIGKILL if process in children else signal.SIGTERM)
                process.wait()


def _this_node(count: int, nodes: int) -> Node:
    if nodes == 1:
        return Node(0, 1, count, "127.0.0.1", _free_port("127.0.0.1"))
    leader = os.environ.get(LEADER)
    if leader is not None:
        host, _, port = leader.rpartition(":")
        return Node(1 + int(os.environ["SLURM_PROCID"]), nodes, count, host, int(port))
    allocated = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if allocated != nodes:
        found = f"this Slurm job has {allocated}" if allocated else "this process is in none"
        raise InvalidInputError(
            f"A run on {nodes} nodes needs a Slurm job with {nodes} nodes; {found}.",
            f"Submit it with `--on slurm --nodes {nodes}`, or start it in a job script with `#SBATCH --nodes={nodes}`.",
        )
    if shutil.which("srun") is None:
        raise MissingDependencyError(
            "The program srun, which starts the processes of the other nodes, is not on the path.",
            "Add the programs of Slurm to the PATH of the job, e.g. with `module load slurm`.",
        )
    return Node(0, nodes, count, socket.gethostname(), _free_port(""))


def _start(argv: Sequence[str], node: Node, local: int) -> "subprocess.Popen[bytes]":
    environment = node.environment(local)
    return subprocess.Popen(
        [sys.executable, "-m", "ichx", *argv],
        stdin=subprocess.DEVNULL,
        stdout=None if environment["RANK"] == "0" else subprocess.DEVNULL,
        env=os.environ | environment | child_environment(),
        process_group=0,  # a terminal's Ctrl-C reaches only the parent, which forwards it once
    )


def _start_other_nodes(argv: Sequence[str], node: Node) -> "subprocess.Popen[bytes]":
    """Start the command once on each other node of the Slurm job."""
    others = node.nodes - 1
    options = [f"--nodes={others}", f"--ntasks={others}", "--ntasks-per-node=1", "--relative=1", "--export=ALL"]
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    if cpus is not None:
        options.append(f"--cpus-per-task={cpus}")  # srun does not take it from the job
    return subprocess.Popen(
        ["srun", *options, sys.executable, "-m", "ichx", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {LEADER: f"{node.host}:{node.port}"},
        process_group=0,
    )


def _wait(processes: "Mapping[str, subprocess.Popen[bytes]]", stopping: threading.Event) -> int:
    """Wait for all processes by name, after a failure for at most `GRACE_SECONDS`; return the exit code."""
    failure: int | None = None
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes.values()]
        if failure is None:
            name, failure = next(
                ((name, code) for name, code in zip(processes, codes, strict=True) if code), ("", None)
            )
            if failure is not None and failure not in STOP_CODES:  # processes that stop may write a checkpoint
                deadline = time.monotonic() + GRACE_SECONDS
            if failure is not None and failure < 0:
                print(f"{name} was ended by {signal.Signals(-failure).name}", file=sys.stderr)
        if None not in codes:
            if stopping.is_set() and codes[0] in STOP_CODES:  # those without the signal may have failed before it ended
                return codes[0]
            return 0 if failure is None else failure if failure > 0 else 128 - failure
        if time.monotonic() > deadline:
            for process in processes.values():
                _signal(process, signal.SIGKILL)
        time.sleep(TICK_SECONDS)


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
