"""Memory of the device: micro-batches for batches that do not fit, and the peak that was used."""

import gc
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch

from ichx.errors import ResourceError

Result = TypeVar("Result")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""Messages of torch's allocators for CPUs and Apple GPUs, of cuDNN and cuBLAS, whose errors have no type."""


def reset_peak(device: torch.device) -> None:
    """Make `peak_gb` count from here on, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """Return the peak memory use in GB (1e9 bytes).

    On a CUDA device the peak of tensors since `reset_peak`; elsewhere the peak of this process since its start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # macOS counts bytes, Linux KiB


class MicroBatcher:
    """Splits batches: into the parts that were requested, and into halves of them while memory runs out.

    The size that fits is kept for later batches and reported once through `note`.
    """

    def __init__(self, note: Callable[[str], None], *, alone: bool = True) -> None:
        """Create a batcher; a process that is not `alone` cannot repeat a step that others take with it."""
        self.size: int | None = None
        """Images that fit at once; None before memory ran out."""
        self.least = 1
        """Parts of a batch, at least; fewer if the batch has fewer images."""
        self.unit = 1
        """Successive images of a batch that stay in one part if their number allows it, e.g. those of a study."""
        self._note, self._alone, self._noted = note, alone, False

    def parts(self, count: int) -> list[slice]:
        """Return the parts of a batch of `count` images: as few and as even as possible, the larger ones first."""
        unit = self.unit if self._keeps_units(count) else 1
        units, fitting = count // unit, (self.size or max(count, 1)) // unit
        number = max(-(-units // fitting), min(self.least, units), 1)
        small, larger = divmod(units, number)
        starts = [unit * (part * small + min(part, larger)) for part in range(number + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    def _keeps_units(self, count: int) -> bool:
        units, rest = divmod(count, self.unit)
        return not rest and units >= max(self.least, 1) and (self.size is None or self.size >= self.unit)

    def run(self, count: int, work: Callable[[list[slice]], Result]) -> Result:
        """Return `work(parts)`; repeat it with smaller parts while memory runs out.

        `work` starts from the same state each time.

        Raises:
            ResourceError: A single image does not fit, or the process is one of several.
        """
        while True:
            parts = self.parts(count)
            if self.unit > 1 and len(parts) > 1 and not self._keeps_units(count) and not self._noted:
                self._noted = True
                self._note(
                    f"batches are split into {len(parts)} parts, which divide the {self.unit} slices of labelled "
                    "studies: each part trains on the label of its study"
                )
            try:
                return work(parts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = parts[0].stop
                if largest == 1:
                    raise memory_error(error) from error
                if not self._alone:
                    raise ResourceError(
                        f"A batch part of {largest} images does not fit into the memory of one of several processes.",
                        "Use one process, which splits batches, or register a smaller `--set batch=...`.",
                    ) from error
            # Here the error is gone, and with it all that the failed attempt held.
            self.size = (largest + 1) // 2
            release()
            self._note(f"{largest} images do not fit into memory at once; continuing with {self.size} at a time")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that the memory of a device or of the machine does not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def memory_error(error: BaseException) -> ResourceError:
    """Return the user's error for an out-of-memory `error`."""
    return ResourceError(
        f"Not enough memory for this network: {str(error).splitlines()[0]}",
        "Stop other programs that use the device, or choose a smaller --size, a smaller plugin or another --device.",
    )


def release() -> None:
    """Return unused memory to the device."""
    gc.collect()
    torch.cuda.empty_cache()  # no effect without a GPU in use
