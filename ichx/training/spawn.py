"""Starting a run as several processes of this machine, and ending them all when one ends badly. Not for what they do.

The parent computes nothing and imports no torch: it waits, passes signals on, and leaves no process behind. The
children find each other by the variables that torchrun uses, so that under torchrun a run needs no parent of ours.
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

from ichx.child_processes import child_environment
from ichx.signals import handle_signals

TICK_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""How long the others have to end by themselves when one has ended badly."""
STOPPED = (130, 143)
"""Exit codes of processes that were asked to stop, and do."""


def run_processes(argv: Sequence[str], count: int) -> int:
    """Run `python -m ichx ARGV` as `count` processes; return the exit code of the first that did not end well, or 0.

    Standard output is the first process's; standard error is everybody's.
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
        process_group=0,  # a terminal's Ctrl-C reaches the parent alone, which passes it on once
    )


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Wait for all, but after one that ended badly for `GRACE_SECONDS` only; return its exit code, or 0."""
    bad: int | None = None
    until = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if bad is None:
            rank, bad = next(((rank, code) for rank, code in enumerate(codes) if code), (0, None))
            if bad is not None and bad not in STOPPED:  # those that stop may have a checkpoint to write
                until = time.monotonic() + GRACE_SECONDS
            if bad is not None and bad < 0:
                print(f"process {rank} was ended by {signal.Signals(-bad).name}", file=sys.stderr)
        if None not in codes:
            return 0 if bad is None else bad if bad > 0 else 128 - bad
        if time.monotonic() > until:
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
