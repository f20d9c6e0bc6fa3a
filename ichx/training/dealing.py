"""What each of several runs side by side on one machine gets: a device, CPU threads, loader processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ichx.processes import core_count
from ichx.training.options import MOST_WORKERS


@dataclass(frozen=True)
class Shares:
    """What runs side by side get.

    `devices` are dealt out, each run the one with the fewest; `environment` and `workers` are each run's, None where
    the run's own choice does.
    """

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


def share_machine(device: str, jobs: int) -> Shares:
    """Return the shares of `jobs` runs that are told `device`: all CUDA devices where `auto` or `cuda` leaves a choice.

    On a CPU its cores are divided into threads: with more threads than cores, runs wait for each other's. Beside a GPU
    they are divided into loader processes.
    """
    if jobs == 1:
        return Shares((device,))
    import torch  # takes seconds, and is not needed for one run at a time

    open_choice = device in {"auto", "cuda"}
    cuda = torch.cuda.device_count() if open_choice else 0
    share = max(core_count() // jobs, 1)
    if device == "cpu" or (device == "auto" and not cuda and not torch.backends.mps.is_available()):
        return Shares((device,), {"OMP_NUM_THREADS": str(min(share, torch.get_num_threads()))})
    devices = tuple(f"cuda:{index}" for index in range(cuda)) if cuda > 1 else (device,)
    return Shares(devices, workers=min(share, MOST_WORKERS))
