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
import pandas as pd
from cohort import Cohort, data_folder, drawn_cohort, real_cohort
from common import Figure, arguments, conclude

from ichx.ct.phantom_dicom import write_phantom
from ichx.data.catalog import COLUMNS, catalog_digest, label_digest, make_catalog, usable, write_catalog, write_parquet
from ichx.data.dataset import CATALOG_FILE, DEFAULT_FOLDS, folds_file
from ichx.data.folds import assign_folds, fold_digest
from ichx.data.ingest import scan_source
from ichx.data.predictions import VIEWS, Predictions, write_predictions
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, FoldDraft, PredictionDraft, Store, VersionDraft, open_store
from ichx.training.provenance import run_draft
from ichx.training.register import new_experiment
from ichx.training.weights import save_weights
from ichx.workspace import Workspace, init_workspace

FOLDS = 5
SERIES = 35
"""Slices of a series."""
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
    cohort = real_cohort(folder) if folder else drawn_cohort()
    print(cohort.origin + "; predictions drawn, weights random, pixels of a phantom")
    part = cohort.first(round(QUICK * len(cohort.images))) if options.quick else cohort
    with tempfile.TemporaryDirectory() as scratch:
        workspace = init_workspace(Path(scratch) / "workspace")
        with open_store(workspace) as store:
            _register(workspace, store, part)
        runs = [_report(workspace) for _ in range(1 if options.quick else 3)]
        size = (workspace.experiment_dir(1) / "report.html").stat().st_size / 1e6
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
    files = write_phantom(workspace.root / "files", patients=1, seed=1, size=512)
    catalog = _catalog(cohort, make_catalog(scan_source(files.train), None)[0])
    slices = usable(catalog)
    ids = slices["slice_id"].to_numpy(object)
    labels = slices[list(LABELS)].to_numpy(np.float32)
    folds = assign_folds(ids, slices["patient"].to_numpy(object), labels, FOLDS, 0)
    path = workspace.datasets_dir / "rsna" / "v1"
    path.mkdir(parents=True)
    write_catalog(catalog, path / CATALOG_FILE)
    of_patient = pd.DataFrame({"patient": slices["patient"], "fold": folds}).drop_duplicates()
    write_parquet(of_patient, path / folds_file(DEFAULT_FOLDS))
    version = store.add_version(
        VersionDraft(
            dataset="rsna",
            test_of=None,
            source=str(files.train),
            path=path.relative_to(workspace.root).as_posix(),
            digest=catalog_digest(catalog),
            label_digest=label_digest(slices),
            slices=len(slices),
            patients=slices["patient"].nunique(),
            defects=0,
            sample=None,
            summary={},
            folds=(FoldDraft(DEFAULT_FOLDS, FOLDS, 0, fold_digest(ids, folds)),),
        )
    )
    registry = load_registry()
    experiment = new_experiment(store, registry, plugin="resnext50")
    recipe = from_toml(experiment.recipe)
    home = workspace.experiment_dir(experiment.number)
    save_weights(home / "weights.safetensors", registry.get("resnext50").build(recipe, False), {})
    random = np.random.default_rng(0)
    for fold in range(FOLDS):
        rows = np.flatnonzero(folds == fold)
        run = store.start_run(run_draft(experiment.number, fold, "none: drawn"))
        for index, stage in enumerate(recipe.stage):
            for epoch in range(stage.epochs):
                values = {"loss": 0.1 / (epoch + 1), "score": 0.08 / (index + 1), "lr": stage.lr}
                store.record_epoch(run.id, EpochRecord(stage.name, index, epoch + 1, values))
        drafts = []
        for view in VIEWS:
            logits = random.normal(7 * labels[rows] - 4.5, 1.6).astype(np.float32)
            file = home / f"fold-{fold}" / f"oof-{view}.parquet"
            digest = write_predictions(file, Predictions(ids[rows], logits))
            place = file.relative_to(workspace.root).as_posix()
            drafts.append(
                PredictionDraft(experiment.number, fold, version.id, "oof", view, place, len(rows), digest, None)
            )
        os.link(home / "weights.safetensors", home / f"fold-{fold}" / "weights.safetensors")
        store.finish_run(run.id, "done", predictions=drafts)


def _catalog(cohort: Cohort, phantom: pd.DataFrame) -> pd.DataFrame:
    """Return a catalog of the cohort's images whose files are the phantom's, in turn."""
    count = len(cohort.images)
    catalog = phantom.iloc[np.arange(count) % len(phantom)].reset_index(drop=True)
    owner = pd.factorize(cohort.patients)[0]
    place = pd.Series(owner).groupby(owner).cumcount().to_numpy()
    catalog["slice_id"] = catalog["stem"] = cohort.images
    catalog["patient"] = cohort.patients
    catalog["study"] = catalog["series"] = [f"s{o:05}-{p}" for o, p in zip(owner, place // SERIES, strict=True)]
    catalog["order"] = (place % SERIES).astype(np.int32)
    catalog[list(LABELS)] = cohort.labels
    return catalog[list(COLUMNS)]


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
