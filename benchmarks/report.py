"""The report of a five-fold experiment on the RSNA training set: wall time, file size, memory.

    python benchmarks/report.py [--quick] [--json FILE]

Slices and labels are real if ICHX_TEST_DATA has them, otherwise synthetic. OOF predictions and weights are random, and
all slices share the pixels of a phantom. There is no cache: the report decodes the slices that it shows, and computes
heat maps with the 378 px network of the reference's number 6.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cohort import Cohort, data_folder, real_cohort, synthetic_cohort
from common import Figure, arguments, conclude
from registered import add_cohort, add_finished

from ichx.plugins import load_registry
from ichx.recipe_text import from_toml
from ichx.store import Store, open_store
from ichx.training.weights import save_weights
from ichx.views import DEFAULT_VIEWS as VIEWS
from ichx.workspace import Workspace, init_workspace

FOLDS = 5
SECONDS, MEGABYTES = 60.0, 5.0
QUICK = 0.1
REPORT = """
import resource, sys, time
from ichx.cli.app import main
try:
    main()
finally:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    print(cpu_seconds, own.ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin + "; random predictions and weights, pixels of a phantom")
    subset = cohort.first(round(QUICK * len(cohort.images))) if options.quick else cohort
    with tempfile.TemporaryDirectory() as scratch:
        workspace = init_workspace(Path(scratch) / "workspace")
        with open_store(workspace) as store:
            _register(workspace, store, subset)
        runs = [_write_report(workspace) for _ in range(1 if options.quick else 3)]
        size = (workspace.experiment_files(1).report).stat().st_size / 1e6
    seconds, cpu_seconds = (statistics.median(run[i] for run in runs) for i in (0, 1))
    peak = max(run[2] for run in runs)
    what = f"{len(subset.images):,} slices, {FOLDS} folds"
    conclude(
        [
            Figure("report, wall time", seconds, "s", what, f"{SECONDS:g} s", seconds <= SECONDS),
            Figure("report, processor time", cpu_seconds, "s", what, "-", True),
            Figure("report, size of the page", size, "MB", what, f"{MEGABYTES:g} MB", size <= MEGABYTES),
            Figure("report, peak memory", peak, "GiB", what, "-", True),
        ],
        options,
    )


def _register(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """Add the cohort as a dataset and register an experiment with all folds finished."""
    data = add_cohort(workspace, store, cohort, FOLDS)
    random = np.random.default_rng(0)
    logits = {view: random.normal(7 * data.labels - 4.5, 1.6) for view in VIEWS}
    number = add_finished(workspace, store, data, "resnext50", logits)
    files = workspace.experiment_files(number)
    weights = files.folder / "weights.safetensors"
    recipe = from_toml(store.experiment(number).recipe)
    save_weights(weights, load_registry().get("resnext50").build(recipe, False), {})
    for fold in range(FOLDS):
        os.link(weights, files.fold(fold).weights)


def _write_report(workspace: Workspace) -> tuple[float, float, float]:
    """Write the report in a new process; return its wall time and processor time in seconds and peak memory in GiB."""
    command = [sys.executable, "-c", REPORT, "report", "1", "--json"]
    environment = os.environ | {"ICHX_WORKSPACE": str(workspace.root)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    written = json.loads(done.stdout)
    assert not written["notes"], written["notes"]
    cpu_seconds, peak = map(float, done.stderr.split()[-2:])
    return seconds, cpu_seconds, peak / 2**20


if __name__ == "__main__":
    main()
