"""The device and precision of a training, with the reason for the choice."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ichx.errors import InvalidInputError, UnsupportedError
from ichx.loading.loader_memory import available_memory, fitting_workers
from ichx.recipe import Recipe
from ichx.training.distributed import local_size
from ichx.training.memory import is_out_of_memory, memory_error
from ichx.training.run_options import INFERENCE_BATCH, MAX_WORKERS

SMALL_PIXELS = 64


@dataclass(frozen=True)
class Hardware:
    """A device, a precision (`fp32`, `fp16` or `bf16`) and the reason for it."""

    device: torch.device
    precision: str
    reason: str
    threads: int = 0
    """CPU threads for the network's operations; 0 keeps torch's choice."""
    tf32: bool = False
    """Whether float32 matrix products use TF32 (10-bit mantissa, float32 sums)."""

    def __str__(self) -> str:
        return f"{self.device}, {self.precision} ({self.reason})"


def choose_hardware(device: str, precision: str, pixels: int = 224, *, set_by: str = "the recipe") -> Hardware:
    """Resolve `device` and `precision` on this machine.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto`, `fp32`, `fp16`, `bf16`.
        pixels: Edge of the images. At small ones a core is left to the loader: more threads would wait for each other.
        set_by: What determines the precision, for the reason.

    Raises:
        UnsupportedError: This machine lacks the device, or the device the precision.
        InvalidInputError: The device has an unknown name.
    """
    chosen = _device(device)
    threads = 0
    if chosen.type == "cuda":
        capability = torch.cuda.get_device_capability(chosen)
        best, why = cuda_precision(*capability)
        reason = f"{torch.cuda.get_device_name(chosen)}, {why}"
    elif chosen.type == "mps":
        best, reason = "fp32", "Apple GPU"
    else:
        best, why = cpu_precision(_cpu_flags())
        threads = max(torch.get_num_threads() - 1, 1) if pixels <= SMALL_PIXELS else torch.get_num_threads()
        reason = f"CPU, {threads} thread{'s' if threads > 1 else ''}, {why}"
    if precision == "fp16" and chosen.type != "cuda":
        raise UnsupportedError(
            f"Precision fp16 needs a CUDA GPU, not {chosen}.", "Set precision to auto, fp32 or bf16."
        )
    if precision == "bf16" and chosen.type == "cuda" and best != "bf16":
        raise UnsupportedError(f"This GPU has no bf16: {reason}.", "Set precision to auto or fp16.")
    if precision != "auto":
        best, reason = precision, f"{reason}; precision set by {set_by}"
    tf32 = best == "fp32" and chosen.type == "cuda" and capability >= (8, 0)
    return Hardware(chosen, best, f"{reason}; products in TF32" if tf32 else reason, threads, tf32)


def choose_inference_hardware(device: str, precision: str, recipe_precision: str, pixels: int) -> Hardware:
    """Resolve the device and precision of predictions for a user; arguments and errors as in `choose_hardware`.

    With `auto`, a CPU predicts in fp32, as exported networks do, and other devices in the precision of the training.
    """
    if precision != "auto":
        return choose_hardware(device, precision, pixels, set_by="--precision")
    if _device(device).type == "cpu":
        return choose_hardware(device, "fp32", pixels, set_by="default for predictions on a CPU")
    return choose_hardware(device, recipe_precision, pixels)


def cuda_precision(major: int, minor: int) -> tuple[str, str]:
    """Return the precision for a GPU of this compute capability, and the reason.

    bf16 has the range of fp32 and needs no scaling. fp16 is as fast on GPUs without bf16, with scaled gradients. Before
    tensor cores (7.0) half precision is slower than fp32.
    """
    capability = f"compute capability {major}.{minor}"
    if (major, minor) >= (8, 0):
        return "bf16", capability
    if (major, minor) >= (7, 0):
        return "fp16", f"{capability} has no bf16; gradients are scaled"
    return "fp32", f"{capability} has no tensor cores"


def cpu_precision(flags: set[str]) -> tuple[str, str]:
    """Return the precision for a processor with these /proc/cpuinfo `flags`, and the reason."""
    half = sorted(flags & {"amx_bf16", "avx512_bf16"})
    return ("bf16", ", ".join(half)) if half else ("fp32", "no AVX512-BF16 or AMX")


@contextlib.contextmanager
def isolated_torch_settings(hardware: Hardware) -> Iterator[None]:
    """Configure torch for a run on `hardware`, and restore its settings and random state afterwards.

    Raises:
        ResourceError: Memory ran out where no smaller batch could help.
    """
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    benchmark = torch.backends.cudnn.benchmark
    on_gpu = hardware.device.type == "cuda"
    with torch.random.fork_rng(devices=[hardware.device] if on_gpu else []):
        try:
            torch.set_num_threads(hardware.threads or threads)
            if hardware.tf32:
                torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = on_gpu  # batches have one shape: search for the fastest algorithm once
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise memory_error(error) from error
            raise
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.benchmark = benchmark
            if on_gpu and "torch._dynamo" in sys.modules:
                torch.compiler.reset()  # compiled code holds the networks of this run


def loader_workers(hardware: Hardware, workers: int | None, recipe: Recipe, note: Callable[[str], None]) -> int:
    """Return the number of loader processes: `workers`, or as many as keep the device busy; no more than memory allows.

    Args:
        hardware: Where the network computes.
        workers: The requested number; None for the default of the device.
        recipe: The recipe of the slices.
        note: Receives that there is memory for fewer only.
    """
    default = 0 if hardware.device.type == "cpu" else min((os.cpu_count() or 1) // local_size(), MAX_WORKERS)
    wanted = default if workers is None else workers
    available = available_memory() if wanted else None
    batch = max(recipe.batch, INFERENCE_BATCH)
    fitting, problem = fitting_workers(recipe, batch, wanted, available and available // local_size())
    if problem is not None:
        note(problem)
    return fitting


def _cpu_flags() -> set[str]:
    """Return the processor's flags, or nothing where the system does not list them."""
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
        raise InvalidInputError(f"Unknown device {name!r}.", "Use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type not in {"cpu", "cuda", "mps"}:
        raise InvalidInputError(f"Unsupported device {name!r}.", "Use auto, cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UnsupportedError(
                f"No device {name}: torch finds {count} CUDA devices.", "Use --device auto or --device cpu."
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnsupportedError("No Apple GPU on this machine.", "Use --device auto or --device cpu.")
    return device
