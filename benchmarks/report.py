"""The report of a five-fold experiment of the training set's size: its wall time, its size, its memory.

    python benchmarks/report.py [--quick] [--json FILE]

Slices and labels are real where ICHX_TEST_DATA has them, else drawn; the OOF predictions are drawn, the weights
are random, and the pixels are those of a phantom, which stand in for every slice. The report decodes what it shows and
runs the 378 px network of the reference's number 6 for its heat maps, as it does where the cache is on another machine.
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

from ichx.evaluation.choices import VIEWS
from ichx.plugins import load_registry
from ichx.recipe_text import from_toml
from ichx.store import Store, open_store
from ichx.training.weights import save_weights
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
    mine, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = mine.ru_utime + mine.ru_stime + others.ru_utime + others.ru_stime
    print(busy, mine.ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin + "; predictions drawn, weights random, pixels of a phantom")
    part = cohort.first(round(QUICK * len(cohort.images))) if options.quick else cohort
    with tempfile.TemporaryDirectory() as scratch:
        workspace = init_workspace(Path(scratch) / "workspace")
        with open_store(workspace) as store:
            _register(workspace, store, part)
        runs = [_report(workspace) for _ in range(1 if options.quick else 3)]
        size = (workspace.experiment_files(1).report).stat().st_size / 1e6
    seconds, busy = (statistics.median(run[i] for run in runs) for i in (0, 1))
    peak = max(run[2] for run in runs)
    what = f"{len(part.images):,} slices, {FOLDS} folds"
    conclude(
        [
            Figure("report, wall time", seconds, "s", what, f"{SECONDS:g} s", seconds <= SECONDS),
            Figure("report, processor time", busy, "s", what, "-", True),
            Figure("report, size of the page", size, "MB", what, f"{MEGABYTES:g} MB", size <= MEGABYTES),
            Figure("report, peak memory", peak, "GiB", what, "-", True),
        ],
        options,
    )


def _register(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """Put the cohort as a dataset, and an experiment whose folds are all done, into the workspace."""
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


def _report(workspace: Workspace) -> tuple[float, float, float]:
    """Return seconds, processor seconds and peak GiB of a process that writes the report."""
    command = [sys.executable, "-c", REPORT, "report", "1", "--json"]
    environment = os.environ | {"ICHX_WORKSPACE": str(workspace.root)}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    assert not told["notes"], told["notes"]
    busy, peak = map(float, done.stderr.split()[-2:])
    return seconds, busy, peak / 2**20


if __name__ == "__main__":
    main()
