"""The demo: the complete job on a phantom dataset, scored on phantom patients that no model saw.

It calls the same functions as the commands. Finished steps are skipped, so that an interrupted demo resumes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import LoadedDataset, load_dataset
from ichx.datasets.label_csv import read_labels
from ichx.errors import ConflictError
from ichx.evaluation.baseline import bright_share, brightness_baseline
from ichx.evaluation.ensemble import EnsembleReport, EnsembleRequest, make_ensemble
from ichx.evaluation.metric import constant_score, score
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.prepare import open_cache
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.phantom.study import CHALLENGE_PREVALENCE
from ichx.plugins import Registry
from ichx.project import Project
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import open_store
from ichx.workspace import Workspace, init_workspace

MEMBERS = (
    ("tiny_fine", "sigmoid"),
    ("tiny_fine_thin", "sigmoid"),
    ("tiny_fine", "linear"),
    ("tiny_fine_thin", "linear"),
)
"""Plugin and window kind of the four experiments."""
PATIENTS = 130
TEST_PATIENTS = 40
SEED = 7
PIXELS = 96
FOLDS = 3
PREVALENCE = {label: round(2.8 * share, 4) for label, share in CHALLENGE_PREVALENCE.items()}
"""The challenge's prevalences, nearly tripled (`any` 40 %): the demo has 130 patients instead of 19,000."""


@dataclass(frozen=True)
class DemoReport:
    """Result of the demo. The three scores are weighted log losses on the test patients."""

    workspace: str
    ensemble: EnsembleReport
    test_slices: int
    constant_score: float
    brightness_score: float
    blend_score: float
    submission: str
    seconds: float

    @property
    def below(self) -> float:
        """Relative improvement of the blend over the better of the two baselines."""
        return 1 - self.blend_score / min(self.constant_score, self.brightness_score)


def run_demo(
    folder: Path, registry: Registry, events: RunCallbacks, announce: Callable[[str], None] = lambda step: None
) -> DemoReport:
    """Create the workspace `folder`, do the complete job in it, and return the result.

    Args:
        folder: A new folder, or that of an interrupted demo.
        registry: The plugins.
        events: Receives the progress within a step.
        announce: Receives each step before it begins.

    Raises:
        ConflictError: The folder contains something else.
    """
    began = time.monotonic()
    phantom = folder / "phantom"
    if folder.exists() and any(folder.iterdir()) and not (folder / "ichx.toml").exists():
        raise ConflictError(f"{folder} contains other files.", "Use a new folder: `ichx demo FOLDER`.")
    workspace = init_workspace(folder)
    with open_store(workspace) as store:
        others = sorted({dataset.name for dataset in store.datasets()} - {"phantom", "phantom-test"})
    if others:
        raise ConflictError(
            f"{folder} is a workspace with other datasets: {', '.join(others)}.",
            "Use a new folder: `ichx demo FOLDER`.",
        )
    if not phantom.exists():
        announce(f"writing {PATIENTS + TEST_PATIENTS} synthetic patients")
        write_phantom(
            phantom,
            patients=PATIENTS,
            test_patients=TEST_PATIENTS,
            seed=SEED,
            size=PIXELS,
            prevalence=PREVALENCE,
            progress=lambda done, total: events.phase("creating phantom studies", done, total),
        )
    announce("reading their headers, splitting the patients into folds")
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store),
            AddRequest("phantom", phantom / "stage_2_train", labels=phantom / "stage_2_train.csv", folds=FOLDS),
        )
        add_dataset(
            Project(workspace, store),
            AddRequest(
                "phantom-test",
                phantom / "stage_2_test",
                test_of="phantom",
                sample=phantom / "stage_2_sample_submission.csv",
            ),
        )
        numbers = sorted(e.number for e in store.experiments(limit=None))
        if not numbers:
            numbers = [
                new_experiment(store, registry, ExperimentRequest(plugin=name, kind=kind)).number
                for name, kind in MEMBERS
            ]
        for place, number in enumerate(numbers, start=1):
            announce(f"training model {place} of {len(numbers)} on {FOLDS} folds")
            run_experiment(Project(workspace, store, registry), number, callbacks=events)
        announce("blending the models")
        ensemble = make_ensemble(Project(workspace, store), EnsembleRequest(top=len(MEMBERS), smooth=True))
        announce(f"scoring the blend and two baselines on {TEST_PATIENTS} unseen patients")
        scores = _score_test(Project(workspace, store), phantom, numbers[0], ensemble, events)
    return DemoReport(
        workspace=str(workspace.root),
        ensemble=ensemble,
        test_slices=scores.slices,
        constant_score=scores.constant,
        brightness_score=scores.brightness,
        blend_score=scores.blend,
        submission=ensemble.submissions[0].path,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _TestScores:
    slices: int
    constant: float
    brightness: float
    blend: float


def _score_test(
    project: "Project", phantom: Path, number: int, ensemble: EnsembleReport, events: RunCallbacks
) -> _TestScores:
    """Score the submission and the two baselines on the phantom's held-out labels."""
    truth = read_labels(phantom / "stage_2_test_labels.csv")
    submitted = read_labels(project.workspace.root / ensemble.submissions[0].path)
    row_of = {image: row for row, image in enumerate(submitted.images)}
    predicted = submitted.values[[row_of[image] for image in truth.images]]

    recipe = from_toml(project.store.experiment(number).recipe)
    train, test = (load_dataset(project, name) for name in ("phantom", "phantom-test"))
    labels = train.slices[list(LABELS)].to_numpy(np.float64)
    shares = [_shares(project.workspace, data, recipe, events) for data in (train, test)]
    truth_of = dict(zip(truth.images, truth.values, strict=True))
    truth_by_row = np.array([truth_of[i] for i in test.slices["slice_id"]], dtype=np.float64)
    return _TestScores(
        slices=len(truth.images),
        constant=constant_score(labels, truth.values),
        brightness=score(truth_by_row, brightness_baseline(shares[0], labels, shares[1])),
        blend=score(truth.values, predicted),
    )


def _shares(workspace: Workspace, data: LoadedDataset, recipe: Recipe, events: RunCallbacks) -> npt.NDArray[np.float64]:
    cache: Cache = open_cache(workspace, data, recipe, events)
    return np.array([bright_share(cache.read(row)) for row in range(len(data.slices))])
