"""The processes that train one fold together: who this one is, and what they tell each other.

Alone, a process is a group of one, and all of this costs nothing. Gradients are not exchanged here but by the network's
wrapper (`ichx.training.learner`).
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

from ichx.errors import IchxError
from ichx.training.stop_request import StopRequest

Result = TypeVar("Result")

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|timed? ?out", re.IGNORECASE)
"""What torch says, in one of its many ways, when another process of the group has gone."""
STEP_TIMEOUT = timedelta(minutes=30)
PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which may build a cache; one that has died is noticed at once."""


class AgreedError(IchxError):
    """An error that every process of a group raises, or that follows from another one's: the first process tells it."""


class Group:
    """A process among `size`, number `rank`. Every process calls the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        self.rank, self.size, self._control = rank, size, control

    @property
    def leads(self) -> bool:
        """Whether this process writes and shows what the group does."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def share(self, value: Any) -> Any:
        """Return the first process's `value`."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self._control)
        return held[0]

    def first(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, done by the first process before the others: what it writes, they find."""
        if self.leads:
            result = work()
            self.share(None)
            return result
        self.share(None)
        return work()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers of `model`: batch statistics are each process's own."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Yield the group that this process was started in (RANK, WORLD_SIZE... as torchrun has them), and leave it."""
    if not started_in_group():
        yield Group()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise IchxError(
            f"the processes of this run do not find each other: {str(error).splitlines()[0]}",
            "start them with `ichx run --processes N` or torchrun",
        ) from error
    try:
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Group(dist.get_rank(), dist.get_world_size(), control)
    finally:
        dist.destroy_process_group()


def end_process() -> NoReturn:
    """End a process of a group that has done its work, at once and well.

    Torch's threads may outlive the group that they were made for, and abort an interpreter that is being torn down.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def started_in_group() -> bool:
    """Whether this process was started as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_rank() -> int:
    """Return which of the processes on this machine this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """Return how many processes of the group this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) if started_in_group() else 1


@contextlib.contextmanager
def watching(group: Group, stop: StopRequest, number: int) -> Iterator[None]:
    """Turn torch's errors about a process that has gone into one line, or into the stop that they follow from."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not LOST.search(str(error)):
            raise
        stop.heed()
        raise AgreedError(
            f"another of the {group.size} processes of this run has ended",
            f"its own message, if it left one, says why; `ichx run {number}` goes on from the last checkpoint",
        ) from error
