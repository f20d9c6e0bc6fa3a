"""Where a training computes and in which precision, and why."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState

from ichx.errors import IchxError
from ichx.training.distributed import local_size
from ichx.training.micro_batches import is_out_of_memory, told
from ichx.training.run_options import MOST_WORKERS

SMALL_PIXELS = 64


@dataclass(frozen=True)
class Hardware:
    """A device, a precision (`fp32`, `fp16` or `bf16`) and the reason for it."""

    device: torch.device
    precision: str
    reason: str
    threads: int = 0
    """CPU threads for the network's operations; 0 leaves torch's own choice."""
    tf32: bool = False
    """Whether float32 products of matrices are rounded to TF32's 10 bits before they are summed in float32."""

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
        capability = torch.cuda.get_device_capability(chosen)
        able, why = of_cuda(*capability)
        reason = f"{torch.cuda.get_device_name(chosen)}, {why}"
    elif chosen.type == "mps":
        able, reason = "fp32", "Apple GPU"
    else:
        able, why = of_cpu(_cpu_flags())
        threads = max(torch.get_num_threads() - 1, 1) if pixels <= SMALL_PIXELS else torch.get_num_threads()
        reason = f"CPU, {threads} thread{'s' if threads > 1 else ''}, {why}"
    if precision == "fp16" and chosen.type != "cuda":
        raise IchxError(f"precision fp16 needs a CUDA GPU, not {chosen}", "set precision to auto, fp32 or bf16")
    if precision == "bf16" and chosen.type == "cuda" and able != "bf16":
        raise IchxError(f"{reason}: it does not compute bf16", "set precision to auto or fp16")
    if precision != "auto":
        able, reason = precision, f"{reason}; precision as the recipe says"
    tf32 = able == "fp32" and chosen.type == "cuda" and capability >= (8, 0)
    return Hardware(chosen, able, f"{reason}; products in TF32" if tf32 else reason, threads, tf32)


def of_cuda(major: int, minor: int) -> tuple[str, str]:
    """Return the precision for a GPU of this compute capability, and why.

    bf16 has the range of fp32 and needs no scaling. fp16 is as fast where there is no bf16, but its gradients have to
    be scaled. Before tensor cores (7.0) half precision is slower than fp32.
    """
    said = f"compute capability {major}.{minor}"
    if (major, minor) >= (8, 0):
        return "bf16", said
    if (major, minor) >= (7, 0):
        return "fp16", f"{said} has no bf16; gradients are scaled"
    return "fp32", f"{said} has no tensor cores"


def of_cpu(flags: set[str]) -> tuple[str, str]:
    """Return the precision for a processor with `flags`, as /proc/cpuinfo names them, and why."""
    able = sorted(flags & {"amx_bf16", "avx512_bf16"})
    return ("bf16", ", ".join(able)) if able else ("fp32", "no AVX512-BF16 or AMX")


@contextlib.contextmanager
def torch_of_its_own(hardware: Hardware) -> Iterator[None]:
    """Set torch up for a run on `hardware`, and leave its settings and random state as they were before.

    An error of memory that nothing could be done about is raised as `IchxError`.
    """
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    trying = torch.backends.cudnn.benchmark
    on_gpu = hardware.device.type == "cuda"
    with torch.random.fork_rng(devices=[hardware.device] if on_gpu else []):
        try:
            torch.set_num_threads(hardware.threads or threads)
            if hardware.tf32:
                torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = on_gpu  # batches have one shape: its fastest algorithm is looked for once
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise told(error) from error
            raise
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.benchmark = trying
            if on_gpu and "torch._dynamo" in sys.modules:
                torch.compiler.reset()  # what is compiled holds the networks of this run


def make_accelerator(hardware: Hardware, *, freezes: bool = False) -> Accelerator:
    """Return accelerate's handle on `hardware`, free of what an earlier run in this process had chosen.

    A training that `freezes` parts of its network has steps in which processes do not wait for gradients of those.
    """
    release_accelerator()
    if hardware.device.type == "cuda":
        torch.cuda.set_device(hardware.device)
    mixed = {"fp32": "no"}.get(hardware.precision, hardware.precision)
    exchange = DistributedDataParallelKwargs(find_unused_parameters=freezes)
    return Accelerator(cpu=hardware.device.type == "cpu", mixed_precision=mixed, kwargs_handlers=[exchange])


def release_accelerator() -> None:
    """Forget accelerate's process-wide state, so that it does not outlive a run."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    GradientState._reset_state()


def loader_workers(hardware: Hardware, asked: int | None) -> int:
    """Return how many processes load slices: as `asked`, or as many as keep the device fed."""
    default = 0 if hardware.device.type == "cpu" else min((os.cpu_count() or 1) // local_size(), MOST_WORKERS)
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
