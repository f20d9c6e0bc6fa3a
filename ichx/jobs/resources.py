"""Shares of the machine for jobs that run at the same time: a device, CPU threads, loader processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ichx.text import format_count
from ichx.training.run_options import MAX_WORKERS
from ichx.worker_pool import core_count


@dataclass(frozen=True)
class Machine:
    """The resources to share."""

    cores: int
    threads: int
    """CPU threads that a run may use."""
    cuda: int = 0
    """Number of CUDA devices."""
    mps: bool = False
    """Whether there is an Apple GPU."""


@dataclass(frozen=True)
class Shares:
    """The share of each job: one of the devices, environment variables, loader processes."""

    devices: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None
    """None leaves the number to the run."""

    def describe(self) -> str:
        """Return the share in words; an empty string if each job may use the whole machine."""
        parts = [f"devices {', '.join(self.devices)}"] if len(self.devices) > 1 else []
        threads = self.environment.get("OMP_NUM_THREADS")
        if threads:
            parts.append(f"{format_count(int(threads), 'CPU thread')} each")
        if self.workers:
            parts.append(f"{format_count(self.workers, 'loader process', 'loader processes')} each")
        return ", ".join(parts)

    def free_device(self, used: Sequence[str]) -> str:
        """Return the device with the fewest jobs, given the device of each running job."""
        return min(self.devices, key=used.count)


def split_machine(device: str, jobs: int) -> Shares:
    """Return the shares of `jobs` jobs on `device` of this machine."""
    if jobs == 1:
        return Shares((device,))
    cores = core_count()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(limit) if limit.isdecimal() and int(limit) else cores
    if device == "cpu":
        return split(Machine(cores, threads), device, jobs)
    import torch  # slow to import, and only needed to find GPUs

    machine = Machine(cores, threads, torch.cuda.device_count(), torch.backends.mps.is_available())
    return split(machine, device, jobs)


def split(machine: Machine, device: str, jobs: int) -> Shares:
    """Return the shares of `jobs` jobs: on all CUDA devices if `device` is `auto` or `cuda`.

    CPU cores are split into threads if the jobs train on the CPU, because runs with more threads than cores slow each
    other down, and into loader processes if they train on a GPU.
    """
    part = max(machine.cores // jobs, 1)
    if device == "cpu" or (device == "auto" and not machine.cuda and not machine.mps):
        return Shares((device,), {"OMP_NUM_THREADS": str(min(part, machine.threads))})
    every = device in {"auto", "cuda"} and machine.cuda > 1
    devices = tuple(f"cuda:{index}" for index in range(machine.cuda)) if every else (device,)
    return Shares(devices, workers=min(part, MAX_WORKERS))
