"""Starts a run as several processes of this machine and ends all of them when one fails.

The parent imports no torch: it waits and forwards signals. The children find each other by torchrun's variables
(`ichx.training.distributed`), so that a run under torchrun needs no such parent.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from ichx.child_processes import child_environment
from ichx.signals import handle_signals

TICK_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""Time that the other processes have to end when one has failed."""
STOP_CODES: Final = (129, 130, 143)
"""Exit codes of processes that stop on request."""


def run_processes(argv: Sequence[str], count: int) -> int:
    """Run `python -m ichx ARGV` as `count` processes and wait for them.

    Standard output is that of the first process, standard error that of all.

    Returns:
        The exit code of the first process that failed, or 0.
    """
    port = _free_port()
    processes = [_start(argv, rank, count, port) for rank in range(count)]

    def forward(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            _signal(process, signal.Signals(number))

    with handle_signals(forward):
        try:
            return _wait(processes)
        finally:
            for process in processes:
                _signal(process, signal.SIGKILL)
                process.wait()


def _start(argv: Sequence[str], rank: int, count: int, port: int) -> "subprocess.Popen[bytes]":
    threads = os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": threads,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ichx", *argv],
        stdin=subprocess.DEVNULL,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        env=os.environ | {name: str(value) for name, value in environment.items()} | child_environment(),
        process_group=0,  # a terminal's Ctrl-C reaches only the parent, which forwards it once
    )


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Wait for all processes, after a failure for at most `GRACE_SECONDS`; return the exit code."""
    failure: int | None = None
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if failure is None:
            rank, failure = next(((rank, code) for rank, code in enumerate(codes) if code), (0, None))
            if failure is not None and failure not in STOP_CODES:  # processes that stop may write a checkpoint
                deadline = time.monotonic() + GRACE_SECONDS
            if failure is not None and failure < 0:
                print(f"process {rank} was ended by {signal.Signals(-failure).name}", file=sys.stderr)
        if None not in codes:
            return 0 if failure is None else failure if failure > 0 else 128 - failure
        if time.monotonic() > deadline:
            for process in processes:
                _signal(process, signal.SIGKILL)
        time.sleep(TICK_SECONDS)


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
