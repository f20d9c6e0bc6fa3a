"""The demo: the complete job on a phantom dataset, scored on phantom patients that no model saw.

It calls the same functions as the commands. Finished steps are skipped, so that an interrupted demo resumes. Between
`prepare_demo` and `finish_demo` the command line trains the experiments, several folds at a time.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import LoadedDataset, load_dataset
from ichx.datasets.label_csv import read_labels
from ichx.errors import ConflictError, IchxError
from ichx.evaluation.baseline import bright_share, brightness_baseline
from ichx.evaluation.ensemble import EnsembleReport, EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.ensemble_submissions import predict_test
from ichx.evaluation.metric import constant_score, score
from ichx.evaluation.nested_score import BlendOptions
from ichx.evaluation.stored_members import check_networks
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.prepare import open_cache
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.labels import LABELS
from ichx.phantom.dicom_files import (
    SAMPLE_SUBMISSION,
    TEST_FOLDER,
    TEST_LABELS,
    TRAIN_FOLDER,
    TRAIN_LABELS,
    TRAIN_MASKS,
    write_phantom,
)
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
"""Plugin and window kind of the four experiments with images."""
SEQUENCE = ExperimentRequest(plugin="gru_stack", settings=("sequence.parts=4",), name="gru_stack")
"""The sequence experiment, which reads the logits of the four; with half of the default's heads."""
PATIENTS = 130
TEST_PATIENTS = 60
SEED = 7
PIXELS = 96
FOLDS = 3
PREVALENCE = {"any": 0.16, "epidural": 0.0125}
"""As in the challenge about 60 % of the studies have no bleed; epidural ones are three times as frequent, because the
demo has 130 patients instead of 19,000."""
PHANTOM = "phantom"
"""Folder of the synthetic files in the workspace."""


@dataclass(frozen=True, kw_only=True)
class DemoScores:
    """Weighted log losses on the test patients."""

    test_slices: int
    constant_score: float
    brightness_score: float
    single_score: float
    """Of the member with the best OOF score."""
    mean_score: float
    """Of the mean of the four models, without any fitted step."""
    models_score: float
    """Of the blend of the four models, without the sequence experiment."""
    sequence_score: float
    """Of the sequence experiment alone."""
    blend_score: float
    """Of the blend of all five."""


@dataclass(frozen=True, kw_only=True)
class DemoReport(DemoScores):
    """Result of the demo."""

    workspace: str
    ensemble: EnsembleReport
    submission: str
    seconds: float

    @property
    def below(self) -> float:
        """Relative improvement of the blend over the better of the two baselines."""
        return 1 - self.blend_score / min(self.constant_score, self.brightness_score)


def prepare_demo(
    folder: Path, registry: Registry, events: RunCallbacks, announce: Callable[[str], None]
) -> tuple[Workspace, tuple[int, ...]]:
    """Create the workspace `folder` with the phantom datasets; return it and the registered experiments, not trained.

    Args:
        folder: A new folder, or that of an interrupted demo.
        registry: The plugins.
        events: Receives the progress within a step.
        announce: Receives each step before it begins.

    Raises:
        ConflictError: The folder contains something else.
    """
    phantom = folder / PHANTOM
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
        project = Project(workspace, store, registry)
        labels, masks = phantom / TRAIN_LABELS, phantom / TRAIN_MASKS
        add_dataset(project, AddRequest("phantom", phantom / TRAIN_FOLDER, labels=labels, masks=masks, folds=FOLDS))
        sample = phantom / SAMPLE_SUBMISSION
        add_dataset(project, AddRequest("phantom-test", phantom / TEST_FOLDER, test_of="phantom", sample=sample))
        numbers = tuple(sorted(e.number for e in store.experiments(limit=None) if not e.members))
        if not numbers:
            requests = [ExperimentRequest(plugin=name, kind=kind) for name, kind in MEMBERS]
            numbers = tuple(new_experiment(store, registry, request).number for request in requests)
        announce("caching the slices")
        recipe = from_toml(store.experiment(numbers[0]).recipe)
        for name in ("phantom", "phantom-test"):  # before the folds, which would wait for each other
            open_cache(workspace, load_dataset(project, name), recipe, events)
    return workspace, numbers


def register_sequence(project: Project, numbers: tuple[int, ...]) -> int:
    """Register the sequence experiment on the trained experiments `numbers`, once; return its number."""
    known = [e.number for e in project.store.experiments(limit=None) if e.members == numbers]
    return known[0] if known else new_sequence(project, SEQUENCE, numbers)[0].number


def finish_demo(
    project: Project,
    numbers: tuple[int, ...],
    sequence: int,
    events: RunCallbacks,
    announce: Callable[[str], None],
    began: float,
) -> DemoReport:
    """Blend the trained experiments `numbers` and `sequence`, and score the blend on the test patients.

    `began` is the `time.monotonic` of the demo's begin.
    """
    announce("blending the models")
    models = blend_once(project, EnsembleRequest(members=numbers))
    announce("blending the models and the sequence experiment")
    ensemble = blend_once(project, EnsembleRequest(members=(*numbers, sequence)))
    announce(f"scoring each step on {TEST_PATIENTS} unseen patients")
    scores = _score_test(project, numbers, sequence, (models, ensemble), events)
    return DemoReport(
        workspace=str(project.workspace.root),
        ensemble=ensemble,
        **vars(scores),
        submission=ensemble.submissions[0].path,
        seconds=time.monotonic() - began,
    )


def blend_once(project: Project, request: EnsembleRequest) -> EnsembleReport:
    """Return the ensemble of `request`, which an earlier call may have made of the same networks."""
    options = BlendOptions(request.method, None, request.smooth, request.calibrate)
    for ensemble in project.store.ensembles():
        with suppress(IchxError):  # e.g. changed files
            model = read_model(project.workspace, ensemble)
            check_networks(project, ensemble, model)
            made = (sorted(m.experiment for m in model.members), model.tta, model.average, model.options)
            there = all((project.workspace.root / s.path).is_file() for s in model.record.submissions)
            if there and made == (sorted(request.members), request.tta, request.average, options):
                return EnsembleReport(ensemble=ensemble, **vars(model.record))
    return make_ensemble(project, request)


def _score_test(
    project: Project,
    numbers: tuple[int, ...],
    sequence: int,
    blends: tuple[EnsembleReport, EnsembleReport],
    events: RunCallbacks,
) -> DemoScores:
    """Return the scores of the two submissions and of simpler predictions on the phantom's held-out labels."""
    phantom = project.workspace.root / PHANTOM
    truth = read_labels(phantom / TEST_LABELS)
    row_of = {image: row for row, image in enumerate(truth.ids)}
    submitted = [read_labels(project.workspace.root / blend.submissions[0].path) for blend in blends]
    blended = [score(truth.values[[row_of[image] for image in table.ids]], table.values) for table in submitted]

    recipe = from_toml(project.store.experiment(numbers[0]).recipe)
    train, test = (load_dataset(project, name) for name in ("phantom", "phantom-test"))
    labels = train.slices[list(LABELS)].to_numpy(np.float64)
    test_labels = truth.values[[row_of[i] for i in test.slices["slice_id"]]]
    shares = [_shares(project.workspace, data, recipe, events) for data in (train, test)]

    experiments = [project.store.experiment(number) for number in numbers]
    members = {e.number: predict_test(project, e, test.version, "hflip") for e in experiments}
    best = min(experiments, key=lambda e: (e.score_tta is None, e.score_tta))
    ids = next(iter(members.values()))[0]
    member_labels = truth.values[[row_of[i] for i in ids]]
    mean = np.mean([predicted for _, predicted in members.values()], axis=0)
    sequence_ids, of_sequence = predict_test(project, project.store.experiment(sequence), test.version, "none")
    sequence_labels = truth.values[[row_of[i] for i in sequence_ids]]
    return DemoScores(
        test_slices=len(truth.ids),
        constant_score=constant_score(labels, truth.values),
        brightness_score=score(test_labels, brightness_baseline(shares[0], labels, shares[1])),
        single_score=score(member_labels, members[best.number][1]),
        mean_score=score(member_labels, mean),
        models_score=blended[0],
        sequence_score=score(sequence_labels, of_sequence),
        blend_score=blended[1],
    )


def _shares(workspace: Workspace, data: LoadedDataset, recipe: Recipe, events: RunCallbacks) -> npt.NDArray[np.float64]:
    cache: Cache = open_cache(workspace, data, recipe, events)
    return np.array([bright_share(cache.read(row)) for row in range(len(data.slices))])
