"""Memory: in how many parts a network takes a batch that does not fit, and how much was needed at most.

Not for what is learnt from a part.
"""

import gc
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch

from ichx.errors import IchxError

Result = TypeVar("Result")

SAID = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch's allocators of CPUs and Apple GPUs, cuDNN and cuBLAS say, whose errors have no type of their own."""


def forget_peak(device: torch.device) -> None:
    """Have `peak_gb` count from here on, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Return the most memory that was needed at once, in GB (1e9 bytes).

    On a CUDA device what tensors took since `forget_peak`; elsewhere the main memory of this process since it began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9  # macOS counts bytes, Linux KiB


class Portions:
    """How many images go through a network at once: a whole batch, until memory runs out; then half as many, and so on.

    What has been found holds for as long as the object lives. It is told once, through `note`.
    """

    def __init__(self, note: Callable[[str], None], *, alone: bool = True) -> None:
        """Tell `note`; not `alone`, a process must not do a step again that others do with it."""
        self.most: int | None = None
        self._note, self._alone = note, alone

    def parts(self, count: int) -> list[slice]:
        """Return the parts of a batch of `count` images: as few and as even as can be, the larger ones first."""
        number = 1 if self.most is None else -(-count // self.most)
        small, larger = divmod(count, number)
        starts = [part * small + min(part, larger) for part in range(number + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    def run(self, count: int, work: Callable[[list[slice]], Result]) -> Result:
        """Return `work(parts)`, which is called anew with smaller parts as long as memory runs out.

        `work` begins from the same state each time. Raises `IchxError` where a single image does not fit.
        """
        while True:
            parts = self.parts(count)
            try:
                return work(parts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = parts[0].stop
                if largest == 1:
                    raise told(error) from error
                if not self._alone:
                    raise IchxError(
                        f"{largest} images at once do not fit into the memory of one of several processes",
                        "use one process, which then takes a batch in parts, or register a smaller --set batch=...",
                    ) from error
            # Here the error is gone, and with it all that the failed attempt held.
            self.most = (largest + 1) // 2
            release()
            self._note(f"{largest} images at once do not fit into memory: {self.most} at a time from here on")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that a device's memory, or the machine's, does not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)


def told(error: BaseException) -> IchxError:
    """Return `error`, which is one of memory, for people."""
    return IchxError(
        f"there is not enough memory for this network: {str(error).splitlines()[0]}",
        "end what else uses the device, or choose a smaller --size, a smaller plugin or another --device",
    )


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is in use
