"""Labels and folds of the RSNA training set: time and memory to read the label file, time and evenness of its folds.

python benchmarks/labels.py [--quick] [--json FILE]

The label file is the real one if ICHX_TEST_DATA has it; otherwise a synthetic one of the same size and prevalences.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cohort import Cohort, data_folder, label_file, real_cohort, synthetic_cohort, write_long, write_wide
from common import Figure, arguments, conclude

from ichx.datasets.folds import assign_folds, find_leaks, fold_prevalences

READ = """
import resource, sys, time
from pathlib import Path
from ichx.datasets.label_csv import read_labels
began = time.perf_counter()
table = read_labels(Path(sys.argv[1]))
seconds = time.perf_counter() - began
status = Path("/proc/self/status")
if status.exists():  # on Linux, ru_maxrss includes the memory of the parent process
    peak = 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, peak / 2**30, len(table.ids))
"""
READ_SECONDS, READ_GIB, FOLD_SECONDS, DEVIATION = 6.0, 1.0, 5.0, 0.01
QUICK = 0.2
"""Share of the images in the label files of --quick; folds take little time."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin)
    part = cohort.first(round(QUICK * len(cohort.images))) if options.quick else cohort
    with tempfile.TemporaryDirectory() as scratch:
        long, wide = Path(scratch) / "long.csv.gz", Path(scratch) / "wide.csv"
        write_wide(part, wide)
        if folder and not options.quick:
            long = label_file(folder)
        else:
            write_long(part, long)
        runs = [(_read(long, part), _read(wide, part)) for _ in range(3 if options.quick else 5)]
    figures = []
    for name, of_file in zip(("long label file", "wide label file"), zip(*runs, strict=True), strict=True):
        seconds, peak = statistics.median(s for s, _ in of_file), max(p for _, p in of_file)
        size = f"{len(part.images):,} images"
        figures += [
            Figure(f"{name} read", seconds, "s", size, f"{READ_SECONDS:g} s", seconds <= READ_SECONDS),
            Figure(f"{name}: peak memory", peak, "GiB", size, f"{READ_GIB:g} GiB", peak <= READ_GIB),
        ]
    seconds, worst = _folds(cohort, (0, 1, 2))
    size = f"{len(set(cohort.patients)):,} patients"
    figures += [
        Figure("assignment of 5 folds", seconds, "s", size, f"{FOLD_SECONDS:g} s", seconds <= FOLD_SECONDS),
        Figure("largest deviation of a prevalence", 100 * worst, "%", size, f"{DEVIATION:.0%}", worst <= DEVIATION),
    ]
    conclude(figures, options)


def _read(path: Path, cohort: Cohort) -> tuple[float, float]:
    """Return seconds and peak GiB of a process that reads the labels at `path`."""
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    seconds, peak, images = map(float, done.stdout.split())
    assert images == len(cohort.images)
    return seconds, peak


def _folds(cohort: Cohort, seeds: tuple[int, ...]) -> tuple[float, float]:
    """Return the median seconds to assign 5 folds, and the largest relative deviation of a fold's prevalence."""
    times, worst = [], 0.0
    for seed in seeds:
        began = time.perf_counter()
        folds = assign_folds(cohort.images, cohort.patients, cohort.labels, 5, seed)
        times.append(time.perf_counter() - began)
        assert not find_leaks(cohort.images, cohort.patients, folds)
        deviations = np.abs(fold_prevalences(cohort.labels, folds, 5) / cohort.labels.mean(axis=0) - 1)
        worst = max(worst, float(deviations.max()))
    return statistics.median(times), worst


if __name__ == "__main__":
    main()
