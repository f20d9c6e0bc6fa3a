"""Processes that train one fold together: rank, size, exchange of values, errors of lost processes.

A single process is a group of one, at no cost. Gradients are exchanged by the network's wrapper (`runtime`).
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ichx.errors import IchxError, ProcessError
from ichx.text import format_bytes
from ichx.training.stop_request import StopRequest

Result = TypeVar("Result")

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|timed? ?out", re.IGNORECASE)
"""Messages of torch when another process of the group has ended."""
NCCL_BYTES = 512 << 20
"""Size of /dev/shm below which NCCL must do without it; a Docker container has 64 MB by default."""
STEP_TIMEOUT = timedelta(minutes=30)
PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which may build a cache; a dead one is noticed at once."""


class AgreedError(IchxError):
    """An error that all processes of a group raise, or that follows from another's; the first process reports it."""

    code = "process"


class Group:
    """Process `rank` of `size`. All processes call the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        self.rank, self.size, self._control = rank, size, control

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports progress for the group."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the first process's `value`."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def leader_first(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, run by the first process before the others, which find what it wrote."""
        if self.leads:
            result = work()
            self.broadcast(None)
            return result
        self.broadcast(None)
        return work()

    def average(self, value: torch.Tensor) -> None:
        """Replace `value` by its mean over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the first process's buffers of `model` to all: batch statistics differ between processes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextlib.contextmanager
def join_group(device: torch.device, note: Callable[[str], None] = lambda note: None) -> Iterator[Group]:
    """Yield the group that this process was started in (torchrun's RANK, WORLD_SIZE, ...), and leave it afterwards.

    Args:
        device: The device of this process.
        note: Receives what the machine makes necessary.

    Raises:
        ProcessError: The processes cannot connect to each other.
    """
    if not started_in_group():
        yield Group()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        avoid_small_shared_memory(note if local_rank() == 0 else lambda note: None)
    try:
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise ProcessError(
            f"The processes of this run cannot connect to each other: {str(error).splitlines()[0]}",
            "Start them with `ichx run --processes N` or torchrun.",
        ) from error
    try:
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Group(dist.get_rank(), dist.get_world_size(), control)
    finally:
        dist.destroy_process_group()


def avoid_small_shared_memory(note: Callable[[str], None], folder: str = "/dev/shm") -> None:
    """Let NCCL exchange gradients without /dev/shm where that is small; otherwise NCCL fails there.

    All processes of a machine decide by its size, not by its free space, so that they decide alike.
    """
    if local_size() == 1 or "NCCL_SHM_DISABLE" in os.environ:
        return
    try:
        found = os.statvfs(folder)
    except OSError:
        return
    if (size := found.f_frsize * found.f_blocks) < NCCL_BYTES:
        os.environ["NCCL_SHM_DISABLE"] = "1"
        note(
            f"{folder} has {format_bytes(size)}: the processes exchange gradients without it, which can be slower "
            f"(Docker: `--shm-size=1g`)"
        )


def end_process() -> NoReturn:
    """End a process of a group after its work, with exit code 0.

    Torch's threads may outlive their group and abort an interpreter that shuts down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def started_in_group() -> bool:
    """Whether this process was started as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """Return the rank of this process on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """Return the number of the group's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) if started_in_group() else 1


@contextlib.contextmanager
def report_lost_processes(group: Group, stop: StopRequest, number: int) -> Iterator[None]:
    """Turn torch's errors about a lost process into one line, or into the stop request that caused them."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not LOST.search(str(error)):
            raise
        stop.raise_if_stopped()
        raise AgreedError(
            f"Another of the {group.size} processes of this run has ended.",
            f"See its message, if there is one. `ichx run {number}` resumes from the last checkpoint.",
        ) from error
