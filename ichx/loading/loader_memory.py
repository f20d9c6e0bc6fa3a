"""How many loader processes the memory of this machine or container has room for."""

from pathlib import Path
from typing import Final

from ichx.loading.loader_processes import AHEAD
from ichx.recipe import Recipe
from ichx.text import format_bytes

SHARE: Final = 0.5
"""Share of the available memory for loader processes and their batches; the rest is for the network and the files."""
PROCESS_BYTES: Final = 40_000_000
"""Memory of a loader process without its batches, apart from what it shares with the others."""
CGROUPS: Final = Path("/sys/fs/cgroup")


def fitting_workers(recipe: Recipe, batch: int, workers: int, available: int | None) -> tuple[int, str | None]:
    """Return the number of loader processes that fit into memory, and a note if they are fewer than `workers`.

    Args:
        recipe: The recipe, which determines the size of a slice and the number of slices per sample.
        batch: Samples per batch.
        workers: The number of processes that are wanted.
        available: Available bytes; None if unknown.
    """
    samples = (2 * recipe.input.neighbours + 1) * 2 + 1  # int16 slices, and a mask of one byte per pixel
    batch_bytes = batch * samples * recipe.input.pixels**2
    each = PROCESS_BYTES + (AHEAD + 1) * batch_bytes  # read ahead, and the one in work
    if available is None or workers < 1 or workers * each <= SHARE * available:
        return workers, None
    fitting = max(int(SHARE * available / each), 1)
    if fitting >= workers:
        return workers, None
    return fitting, (
        f"{workers} loader processes need {format_bytes(workers * each)} of memory, and {format_bytes(available)} are "
        f"available; continuing with {fitting}"
    )


def available_memory(cgroups: Path = CGROUPS, processes: Path = Path("/proc")) -> int | None:
    """Return the bytes that this process can still use: free memory of the machine, limits of its container or job.

    None where the system does not report it (macOS).
    """
    try:
        lines = (processes / "meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return min([free, *_cgroup_limits(cgroups, processes)])


def _cgroup_limits(cgroups: Path, processes: Path) -> list[int]:
    """Return what each group of this process leaves of its limit. Pages of files do not count: they can be dropped."""
    try:
        groups = (processes / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / group.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(root) and (found := _left(each, *names)) is not None:
                left.append(found)
    return left


def _left(folder: Path, limit: str, usage: str) -> int | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit is written as "max"
        return None
    return max(most - used + int(numbers.get("inactive_file", 0)), 0)
