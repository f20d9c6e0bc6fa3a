"""Two builders of one cache, each with one decoding process, compared with one builder.

    python benchmarks/shared_builds.py [--quick] [--json FILE]

The times are processor time, because other programs take cores away from a builder. The speed-up is the time of the
only builder by that of the slower one of two, so it counts double work and an unequal split. Wall time is printed, too:
both measure the same on a machine with two free cores.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import cv2
import pandas as pd
from common import Figure, arguments, conclude
from data import SIZE, make_catalog, slice_files

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CacheSpec
from ichx.files import sha256_file

TARGET = 1.8


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        figures = shared_building(Path(name), quick=options.quick)
    conclude(figures, options)


def shared_building(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the figures of caches in `folder`, which are removed. Raises `AssertionError` if two builds differ."""
    slices = make_catalog(slice_files(folder), 256 * (12 if quick else 40))
    alone, together, waits, loads = [], [], [], []
    for _ in range(1 if quick else 3):
        loads.append(os.getloadavg()[0])
        one, of_one = _build(folder / "cache", slices, 1)
        two, of_two = _build(folder / "cache", slices, 2)
        assert of_one == of_two, "two builders wrote other files than one"
        alone.append(max(cpu for cpu, _ in one))
        together.append(max(cpu for cpu, _ in two))
        waits.append(max(wall for _, wall in one) / max(wall for _, wall in two))
    ratio = statistics.median(first / second for first, second in zip(alone, together, strict=True))
    baseline = f"one builder ({len(slices) / statistics.median(alone):,.0f} slices/s)"
    load = f"one builder; load {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores"
    return [
        Figure("two builders of one cache, processor time", ratio, "x", baseline, f"{TARGET} x", ratio >= TARGET),
        Figure("two builders of one cache, wall time", statistics.median(waits), "x", load, "-", True),
    ]


def _build(folder: Path, slices: pd.DataFrame, builders: int) -> tuple[list[tuple[float, float]], dict[str, str]]:
    """Build the cache; return processor and wall time of each builder, and the digest of each file."""
    shutil.rmtree(folder, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    times, start = context.Queue(), context.Barrier(builders)
    processes = [context.Process(target=_builder, args=(folder, slices, start, times)) for _ in range(builders)]
    for process in processes:
        process.start()
    found = [times.get() for _ in processes]
    for process in processes:
        process.join()
    (cache,) = folder.iterdir()
    return found, {path.name: sha256_file(path) for path in cache.iterdir()}


def _builder(
    folder: Path, slices: pd.DataFrame, start: Barrier, times: "multiprocessing.Queue[tuple[float, float]]"
) -> None:
    cv2.setNumThreads(1)
    start.wait()
    cpu, wall = time.process_time(), time.perf_counter()
    ensure_cache(folder, "d", Path("/"), slices, CacheSpec(SIZE, "slice", "bilinear"), processes=1)
    times.put((time.process_time() - cpu, time.perf_counter() - wall))


if __name__ == "__main__":
    main()
