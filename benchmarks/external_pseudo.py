"""Pseudo-labels against labels alone: 100 labelled and 400 unlabelled phantom patients, scored on fresh ones.

Three seeds of a tiny network are trained on the labelled patients, and blended. The ensemble labels the unlabelled
patients, softly, and the same three seeds are trained on both parts. Each pair is compared on fresh patients, with a
paired interval over these. The trainings on labels alone have the number of epochs that is best for them: of 4, 10 and
20, it was 10 on 100 fresh patients of the same phantom, which may be among those that are scored here.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Figure

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.mix import ensure_joint
from ichx.evaluation.bootstrap import mean_interval
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.metric import FloatArray, score, weighted_row_losses
from ichx.evaluation.pseudo_labels import LabelRule
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiments
from ichx.experiments.run import run_experiment
from ichx.inference.evaluate import evaluate_slices
from ichx.inference.pseudo import PseudoRequest, create_pseudo_labels
from ichx.inference.ready_model import ready_experiment
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace

PREVALENCE = {"any": 0.3}
PIXELS = 64


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    labelled: int
    unlabelled: int
    fresh: int
    seeds: int
    folds: int
    epochs: int
    """Of the last stage of a training on the labelled patients alone."""
    epochs_of_both: int
    """Of the last stage of a training on both parts; 3 is the plugin's default."""


FULL = Scale(labelled=100, unlabelled=400, fresh=150, seeds=3, folds=2, epochs=10, epochs_of_both=3)
QUICK = Scale(labelled=10, unlabelled=16, fresh=10, seeds=1, folds=2, epochs=2, epochs_of_both=1)


def measure(quick: bool) -> list[Figure]:
    """Return the log loss on fresh patients of trainings with pseudo-labels, against labels alone."""
    scale = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        alone, both, labels, patients = _scores(Path(folder), scale)
    losses = [np.mean([weighted_row_losses(labels, p) for p in arm], axis=0) for arm in (alone, both)]
    change = mean_interval(losses[1] - losses[0], patients)
    pairs = ", ".join(f"{score(labels, a):.4f} to {score(labels, b):.4f}" for a, b in zip(alone, both, strict=True))
    return [
        Figure(
            f"log loss of {scale.fresh} fresh patients with pseudo-labels minus that with {scale.labelled} labelled "
            "patients alone",
            float(losses[1].mean() - losses[0].mean()),
            f"({change.low:.4f} to {change.high:.4f})" if change.low is not None else "(too few for an interval)",
            f"{losses[0].mean():.4f} alone; by seed {pairs}",
            "lower on average",
            bool(losses[1].mean() < losses[0].mean()),
        )
    ]


def _scores(folder: Path, scale: Scale) -> tuple[list[FloatArray], list[FloatArray], FloatArray, FloatArray]:
    """Return the probabilities of fresh slices by each seed alone and with pseudo-labels; labels and patients."""
    options = RunOptions(workers=0)
    with open_store(workspace := init_workspace(folder / "workspace")) as store:
        project = Project(workspace, store, load_registry())
        for name, patients, seed, folds in (
            ("labelled", scale.labelled, 1, scale.folds),
            ("unlabelled", scale.unlabelled, 2, None),
            ("fresh", scale.fresh, 3, 0),
        ):
            files = write_phantom(folder / name, patients=patients, seed=seed, size=PIXELS, prevalence=PREVALENCE)
            labels = None if folds is None else files.train_labels
            add_dataset(project, AddRequest(name, files.train, labels=labels, folds=folds or 0))
        alone = _train(project, "labelled", scale.epochs, scale.seeds, options)
        ensemble = make_ensemble(project, EnsembleRequest(members=alone, tta="hflip", method="mean"))
        request = PseudoRequest("pseudo", "unlabelled", f"ensemble:{ensemble.ensemble.number}", LabelRule())
        create_pseudo_labels(project, request, callbacks=RunCallbacks())
        ensure_joint(project, "labelled+pseudo")
        both = _train(project, "labelled+pseudo", scale.epochs_of_both, scale.seeds, options)
        models = [ready_experiment(project, n, None, print) for n in (*alone, *both)]
        evaluated = [evaluate_slices(project, model, "fresh", callbacks=RunCallbacks())[1] for model in models]
    probabilities = [one.probabilities for one in evaluated]
    patients_of = evaluated[0].slices["patient"].to_numpy(object)
    return probabilities[: scale.seeds], probabilities[scale.seeds :], evaluated[0].labels, patients_of


def _train(project: Project, dataset: str, epochs: int, seeds: int, options: RunOptions) -> list[int]:
    """Train a tiny network with several seeds; return the numbers of the experiments."""
    settings = (
        "input.size=48",
        "input.crop=40",
        "stage.balanced.epochs=1",
        "stage.rebalanced.epochs=1",
        f"stage.full.epochs={epochs}",
        "precision=fp32",
    )
    request = ExperimentRequest("tiny_fine", settings=settings, dataset=dataset, seeds=seeds)
    numbers = [experiment.number for experiment in new_experiments(project.store, project.registry, request)]
    for number in numbers:
        run_experiment(project, number, options=options)
    return numbers
