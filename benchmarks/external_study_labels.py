"""Labels of studies alone against labels of slices: AUC per study of fresh patients, on the phantom.

python benchmarks/external.py --only study_labels

Both experiments have the same patients, folds, recipe and number of steps; one knows the labels of every slice, the
other one only those of each study. Fold 0 of each is evaluated on patients that neither has seen. The AUC is the mean
over the labels that ten of the fresh studies have and ten lack, with a bootstrap interval over patients of the
difference.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import Figure
from study_sheet import study_labels

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.label_sheet import SheetColumns
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import MIN_IN_CLASS, draw_weights
from ichx.evaluation.ranking import rank, rank_scores
from ichx.evaluation.scores import Studies, pool_studies
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference.evaluate import evaluate_slices
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace

PATIENTS, FRESH, SIZE = 150, 150, 64
QUICK_PATIENTS, QUICK_FRESH = 10, 12
EPOCHS, QUICK_EPOCHS = (12, 6, 8), (1, 1, 1)
"""Of the three stages."""
SEED, TARGET, DRAWS = 11, 0.02, 1000
STAGES = ("balanced", "rebalanced", "full")


def measure(quick: bool) -> list[Figure]:
    """Return the AUC of both experiments."""
    with tempfile.TemporaryDirectory() as scratch:
        pooled = _evaluate(Path(scratch), quick=quick)
    patients = QUICK_PATIENTS if quick else PATIENTS
    by_slices, by_studies = pooled["slices"], pooled["studies"]
    positive = (by_slices.labels > 0.5).sum(axis=0)
    fewest = 1 if quick else MIN_IN_CLASS
    columns = [k for k in range(len(LABELS)) if fewest <= positive[k] <= len(by_slices.labels) - fewest]
    before, after = (_mean_auc(one, columns, np.ones((len(one.labels), 1)))[0] for one in (by_slices, by_studies))
    drawn = [
        _mean_auc(by_slices, columns, weights) - _mean_auc(by_studies, columns, weights)
        for weights in draw_weights(len(by_slices.labels), DRAWS, 0)
    ]
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
    best, found = (
        float(_mean_auc(one, [LABELS.index("any")], np.ones((len(one.labels), 1)))[0]) for one in pooled.values()
    )
    shown = f"slices {before:.3f}, studies {after:.3f}; {patients} patients"
    return [
        Figure(
            "study AUC lost without labels of slices, mean over labels",
            float(before - after),
            "",
            f"{shown}; interval {low:.3f} to {high:.3f}",
            "-" if quick else f"{TARGET:g}",
            bool(quick or before - after <= TARGET),
        ),
        Figure("the same, any", best - found, "", f"slices {best:.3f}, studies {found:.3f}", "-", True),
    ]


def _mean_auc(pooled: Studies, columns: list[int], weights: FloatArray) -> FloatArray:
    """Return the mean AUC over labels for `weights` (S, D) of the studies, `(D,)`."""
    areas = []
    for k in columns:
        truth: npt.NDArray[np.bool_] = pooled.labels[:, k] > 0.5
        ranking = rank(truth, pooled.probabilities[:, k], np.arange(len(truth)), len(truth))
        areas.append(rank_scores(ranking, weights).auc)
    return np.asarray(np.nanmean(areas, axis=0))


def _evaluate(root: Path, *, quick: bool) -> dict[str, Studies]:
    patients, fresh = (QUICK_PATIENTS, QUICK_FRESH) if quick else (PATIENTS, FRESH)
    files = write_phantom(root / "phantom", patients=patients, seed=SEED, size=SIZE, test_patients=fresh)
    assert files.train is not None
    assert files.test is not None
    sheet = _study_sheet(files, root / "studies.csv")
    workspace, registry = init_workspace(root / "workspace"), load_registry()
    found = {}
    with open_store(workspace) as store:
        project = Project(workspace, store, registry)
        columns = SheetColumns(id_column="StudyInstanceUID")
        add_dataset(project, AddRequest("slices", files.train, labels=files.train_labels))
        add_dataset(project, AddRequest("studies", files.train, labels=sheet, columns=columns))
        add_dataset(project, AddRequest("fresh", files.test, labels=files.test_labels, folds=0))
        for name in ("slices", "studies"):
            settings = ["batch=32", "precision=fp32"]
            for stage, epochs in zip(STAGES, QUICK_EPOCHS if quick else EPOCHS, strict=True):
                settings += [
                    f"stage.{stage}.{value}" for value in ("sampling=grouped", "per_study=16", f"epochs={epochs}")
                ]
            request = ExperimentRequest("tiny_fine", settings=settings, dataset=name, name=name)
            number = new_experiment(store, registry, request).number
            run_experiment(project, number, folds=[0], options=RunOptions(device="cpu"))
            options = InferenceOptions(folds=[0], device="cpu")
            model = ready_experiment(project, number, options, print)
            _, slices = evaluate_slices(project, model, "fresh", callbacks=RunCallbacks())
            studies = slices.slices["study"].to_numpy(object)
            found[name] = pool_studies(slices.labels, slices.probabilities, studies)
    return found


def _study_sheet(files: PhantomFiles, path: Path) -> Path:
    """Write the labels of the training studies."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["StudyInstanceUID", *LABELS])
        writer.writeheader()
        writer.writerows({"StudyInstanceUID": study, **labels} for study, labels in study_labels(files).items())
    return path
