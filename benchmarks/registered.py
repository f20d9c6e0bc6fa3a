"""Workspaces with a dataset as large as the RSNA training set, and finished experiments with random predictions.

All slices share the pixels of a phantom.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import Cohort

from ichx.datasets.catalog import (
    COLUMNS,
    build_catalog,
    catalog_digest,
    label_digest,
    usable_slices,
    write_catalog,
    write_parquet,
)
from ichx.datasets.dataset import CATALOG_FILE, DEFAULT_FOLDS, folds_file
from ichx.datasets.folds import assign_folds, fold_digest
from ichx.datasets.ingest import scan_source
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.experiments.provenance import run_draft
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.recipe_text import from_toml
from ichx.store import DatasetVersion, EpochRecord, FoldDraft, PredictionDraft, Store, VersionDraft
from ichx.workspace import Workspace

SERIES = 35
"""Slices per series."""


@dataclass(frozen=True)
class Registered:
    """A dataset version with ids (N,), labels (N, 6) and folds (N,) of its slices."""

    version: DatasetVersion
    ids: npt.NDArray[np.object_]
    labels: npt.NDArray[np.float32]
    folds: npt.NDArray[np.int16]


def add_cohort(workspace: Workspace, store: Store, cohort: Cohort, folds: int) -> Registered:
    """Add the cohort to the workspace as the dataset `rsna`."""
    files = write_phantom(workspace.root / "files", patients=1, seed=1, size=512)
    catalog = _catalog(cohort, build_catalog(scan_source(files.train), None)[0])
    slices = usable_slices(catalog)
    ids = slices["slice_id"].to_numpy(object)
    labels = slices[list(LABELS)].to_numpy(np.float32)
    assigned = assign_folds(ids, slices["patient"].to_numpy(object), labels, folds, 0)
    path = workspace.datasets_dir / "rsna" / "v1"
    path.mkdir(parents=True)
    write_catalog(catalog, path / CATALOG_FILE)
    of_patient = pd.DataFrame({"patient": slices["patient"], "fold": assigned}).drop_duplicates()
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
            folds=(FoldDraft(DEFAULT_FOLDS, folds, 0, fold_digest(ids, assigned)),),
        )
    )
    return Registered(version, ids, labels, assigned)


def add_finished(
    workspace: Workspace, store: Store, data: Registered, plugin: str, logits: Mapping[str, npt.NDArray[np.float64]]
) -> int:
    """Record an experiment with all folds done and `logits` (N, 6) by view; return its number."""
    experiment = new_experiment(store, load_registry(), ExperimentRequest(plugin=plugin))
    files = workspace.experiment_files(experiment.number)
    for fold in np.unique(data.folds).tolist():
        rows = np.flatnonzero(data.folds == fold)
        run = store.start_run(run_draft(experiment.number, fold, "none", 0, files.fold(fold).folder))
        for index, stage in enumerate(from_toml(experiment.recipe).stage):
            for epoch in range(stage.epochs):
                values = {"loss": 0.1 / (epoch + 1), "score": 0.08 / (index + 1), "lr": stage.lr}
                store.record_epoch(run.id, EpochRecord(stage.name, index, epoch + 1, values))
        drafts = []
        for view, of_view in logits.items():
            file = files.fold(fold).predictions("oof", view)
            digest = write_predictions(file, Predictions(data.ids[rows], of_view[rows].astype(np.float32)))
            path = file.relative_to(workspace.root).as_posix()
            drafts.append(
                PredictionDraft(experiment.number, fold, data.version.id, "oof", view, path, len(rows), digest, None)
            )
        store.finish_run(run.id, "done", predictions=drafts)
    return experiment.number


def _catalog(cohort: Cohort, phantom: pd.DataFrame) -> pd.DataFrame:
    """Return a catalog of the cohort's images that refers to the files of the phantom in turn."""
    count = len(cohort.images)
    catalog = phantom.iloc[np.arange(count) % len(phantom)].reset_index(drop=True)
    owner = pd.factorize(cohort.patients)[0]
    index = pd.Series(owner).groupby(owner).cumcount().to_numpy()
    catalog["slice_id"] = catalog["stem"] = cohort.images
    catalog["patient"] = cohort.patients
    catalog["study"] = catalog["series"] = [f"s{o:05}-{p}" for o, p in zip(owner, index // SERIES, strict=True)]
    catalog["order"] = (index % SERIES).astype(np.int32)
    catalog[list(LABELS)] = cohort.labels
    return catalog[list(COLUMNS)]
