"""What each of several runs side by side on one machine gets: a device, CPU threads, loader processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ichx.training.run_options import MAX_WORKERS
from ichx.worker_pool import core_count


@dataclass(frozen=True)
class Machine:
    """What there is to share: cores, the threads that a run may have, CUDA devices, and an Apple GPU."""

    cores: int
    threads: int
    cuda: int = 0
    mps: bool = False


@dataclass(frozen=True)
class Shares:
    """What each run gets: one of `devices`, the variables `environment`, and `workers`; None leaves it the choice."""

    devices: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None

    def __str__(self) -> str:
        """What there is to know of them; nothing where each run has the machine as one alone would."""
        told = [f"devices {', '.join(self.devices)}"] if len(self.devices) > 1 else []
        threads = self.environment.get("OMP_NUM_THREADS")
        told += [f"{threads} CPU thread{'s' if threads != '1' else ''} each"] if threads else []
        told += [f"{self.workers} loader process{'es' if self.workers != 1 else ''} each"] if self.workers else []
        return ", ".join(told)

    def device(self, taken: Sequence[str]) -> str:
        """Return the device for one more run beside those on the devices `taken`: the one with the fewest."""
        return min(self.devices, key=taken.count)


def share_machine(device: str, jobs: int) -> Shares:
    """Return the shares of `jobs` runs on this machine that are told `device`."""
    if jobs == 1:
        return Shares((device,))
    cores = core_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) else cores
    if device == "cpu":
        return share(Machine(cores, threads), device, jobs)
    import torch  # takes seconds, and only it knows of GPUs

    machine = Machine(cores, threads, torch.cuda.device_count(), torch.backends.mps.is_available())
    return share(machine, device, jobs)


def share(machine: Machine, device: str, jobs: int) -> Shares:
    """Return the shares of `jobs` runs that are told `device`: every CUDA device, where that leaves the choice.

    On a CPU the cores are divided into threads: with more threads than cores, runs wait for each other's. Beside a GPU
    they are divided into loader processes.
    """
    part = max(machine.cores // jobs, 1)
    if device == "cpu" or (device == "auto" and not machine.cuda and not machine.mps):
        return Shares((device,), {"OMP_NUM_THREADS": str(min(part, machine.threads))})
    every = device in {"auto", "cuda"} and machine.cuda > 1
    devices = tuple(f"cuda:{index}" for index in range(machine.cuda)) if every else (device,)
    return Shares(devices, workers=min(part, MAX_WORKERS))
