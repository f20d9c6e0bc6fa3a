"""Where a training computes and in which precision, and why."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from ichx.errors import IchxError
from ichx.training.options import MOST_WORKERS

SMALL_PIXELS = 96


@dataclass(frozen=True)
class Hardware:
    """A device, a precision (`fp32`, `fp16` or `bf16`) and the reason for it."""

    device: torch.device
    precision: str
    reason: str
    threads: int = 0
    """CPU threads for the network's operations; 0 leaves torch's own choice."""

    def __str__(self) -> str:
        return f"{self.device}, {self.precision} ({self.reason})"


def choose_hardware(device: str, precision: str, pixels: int = 224) -> Hardware:
    """Return what `device` (`auto`, `cpu`, `cuda`, `cuda:1`, `mps`) and `precision` (`auto` or a name) come to here.

    `pixels` is the images' edge: at small ones a core is left to the loader, for several threads would spend their
    time waiting for each other.
    Raises `IchxError` for a device that this machine does not have and a precision that it cannot compute.
    """
    chosen = _device(device)
    threads = 0
    if chosen.type == "cuda":
        major, minor = torch.cuda.get_device_capability(chosen)
        able = "bf16" if major >= 8 else "fp16"
        reason = f"{torch.cuda.get_device_name(chosen)}, compute capability {major}.{minor}"
    elif chosen.type == "mps":
        able, reason = "fp32", "Apple GPU"
    else:
        flags = _cpu_flags() & {"amx_bf16", "avx512_bf16"}
        able = "bf16" if flags else "fp32"
        threads = max(torch.get_num_threads() - 1, 1) if pixels <= SMALL_PIXELS else torch.get_num_threads()
        reason = ", ".join([f"CPU, {threads} thread{'s' if threads > 1 else ''}", *sorted(flags)])
    if precision == "auto":
        return Hardware(chosen, able, reason, threads)
    if precision == "fp16" and chosen.type != "cuda":
        raise IchxError(f"precision fp16 needs a CUDA GPU, not {chosen}", "set precision to auto, fp32 or bf16")
    if precision == "bf16" and chosen.type == "cuda" and able != "bf16":
        raise IchxError(f"{reason} does not compute bf16", "set precision to auto or fp16")
    return Hardware(chosen, precision, f"{reason}; precision as the recipe says", threads)


def make_accelerator(hardware: Hardware) -> Accelerator:
    """Return accelerate's handle on `hardware`, free of what an earlier run in this process had chosen."""
    release_accelerator()
    if hardware.device.type == "cuda":
        torch.cuda.set_device(hardware.device)
    mixed = {"fp32": "no"}.get(hardware.precision, hardware.precision)
    return Accelerator(cpu=hardware.device.type == "cpu", mixed_precision=mixed)


def release_accelerator() -> None:
    """Forget accelerate's process-wide state, so that it does not outlive a run."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    GradientState._reset_state()


@contextlib.contextmanager
def torch_of_its_own(hardware: Hardware) -> Iterator[None]:
    """Leave torch's random state and number of threads as they were before the run."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []):
        try:
            torch.set_num_threads(hardware.threads or threads)
            yield
        finally:
            torch.set_num_threads(threads)


def loader_workers(hardware: Hardware, asked: int | None) -> int:
    """Return how many processes load slices: as `asked`, or as many as keep the device fed."""
    default = 0 if hardware.device.type == "cpu" else min(os.cpu_count() or 1, MOST_WORKERS)
    return default if asked is None else asked


def _cpu_flags() -> set[str]:
    """Return what the processor says it can do; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise IchxError(f"{name!r} is no device", "choose auto, cpu, cuda, cuda:1 or mps") from error
    if device.type not in {"cpu", "cuda", "mps"}:
        raise IchxError(f"ichx does not compute on {name!r}", "choose auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise IchxError(f"there is no {name} here: torch sees {count} CUDA devices", "choose --device auto or cpu")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise IchxError("there is no Apple GPU here", "choose --device auto or cpu")
    return device
