"""Sequence experiments and blends, judged by patients that nothing was trained or chosen on.

python benchmarks/second_level.py [--quick] [--json FILE] [--workspaces FOLDER]

For each seed, four tiny networks are trained on phantom patients in three folds. Second-level models are fitted on
their OOF predictions and applied to fresh phantom patients. Differences are paired by patient. The baselines are what
ichx did before it had sequence experiments: `convex` with averaged probabilities, `stack`, one network with smoothing.
Trained networks remain in the folder `--workspaces` and are used again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from common import Figure, conclude

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.datasets.label_csv import read_labels
from ichx.evaluation.bootstrap import mean_interval
from ichx.evaluation.ensemble import EnsembleReport, EnsembleRequest, make_ensemble
from ichx.evaluation.metric import score, weighted_row_losses
from ichx.experiments.demo import MEMBERS, PIXELS, PREVALENCE
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import Registry
from ichx.plugins.registry import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace

FloatArray = npt.NDArray[np.float64]

SEEDS, PATIENTS, FRESH = (101, 102, 103), 100, 120
QUICK_SEEDS, QUICK_PATIENTS, QUICK_FRESH = (101,), 12, 8
FOLDS = 3
QUICK_STAGES = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1")
QUICK_SEQUENCE = ("stage.full.epochs=2", "sequence.parts=2")


@dataclass(frozen=True)
class Fresh:
    """What blends predict for fresh patients."""

    losses: dict[str, FloatArray]
    """Weighted loss of each slice, by blend."""
    scores: dict[str, float]
    nested: dict[str, tuple[float, float | None, float | None]]
    """Nested score with its interval."""
    patients: npt.NDArray[np.int64]

    def gain(self, new: str, old: str) -> tuple[float, float, float]:
        """Return the relative decrease of the score from `old` to `new`, with its paired interval."""
        before = self.losses[old].mean()
        found = mean_interval(self.losses[old] - self.losses[new], self.patients)
        low, high = (float("nan") if end is None else end / before for end in (found.low, found.high))
        return (before - self.losses[new].mean()) / before, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same work on less data, without targets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON list")
    parser.add_argument("--workspaces", type=Path, metavar="FOLDER", help="where trained networks remain")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in QUICK_SEEDS if options.quick else SEEDS:
            fresh = _evaluate(Path(options.workspaces or scratch) / f"w{seed}", seed, quick=options.quick)
            figures += _figures(seed, fresh, quick=options.quick)
    conclude(figures, options)


def _figures(seed: int, fresh: Fresh, *, quick: bool) -> list[Figure]:
    figures = []
    best = min(("all", "models and sequence", "sequence"), key=lambda name: fresh.nested[name][0])
    for new, old, target in (
        (best, "convex, as before", 0.10),
        (best, "stack", 0.04),
        ("network and sequence", "network, smoothed", 0.03),
    ):
        gain, low, high = fresh.gain(new, old)
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        figures.append(
            Figure(
                f"seed {seed}: {new} below {old}",
                100 * gain,
                "%",
                f"{fresh.scores[old]:.4f} to {fresh.scores[new]:.4f}, {interval}",
                "-" if quick else f"{100 * target:g} %",
                bool(quick or gain >= target),
            )
        )
    for name, (nested, low, high) in fresh.nested.items():
        inside = low is None or high is None or low <= fresh.scores[name] <= high
        shown = "-" if quick or low is None else f"{low:.4f} to {high:.4f}"
        figures.append(
            Figure(
                f"seed {seed}: {name}, fresh", fresh.scores[name], "", f"nested {nested:.4f}", shown, quick or inside
            )
        )
    return figures


def _evaluate(folder: Path, seed: int, *, quick: bool) -> Fresh:
    workspace, registry = init_workspace(folder), load_registry()
    with open_store(workspace) as store:
        project = Project(workspace, store, registry)
        numbers = _train(project, registry, seed, quick=quick)
        stack = _sequence(project, "gru_stack", numbers, quick=quick)
        single = _sequence(project, "gru", numbers[:1], quick=quick)
        requests = {
            "convex, as before": EnsembleRequest(members=numbers, method="convex", smooth=False, average="probability"),
            "stack": EnsembleRequest(members=numbers, method="stack"),
            "auto": EnsembleRequest(members=numbers),
            "network, smoothed": EnsembleRequest(members=numbers[:1], calibrate=False),
            "network and sequence": EnsembleRequest(members=(numbers[0], single)),
            "sequence": EnsembleRequest(members=(stack,)),
            "models and sequence": EnsembleRequest(members=(*numbers, stack)),
            "all": EnsembleRequest(members=(*numbers, stack, single)),
        }
        reports = {name: make_ensemble(project, request) for name, request in requests.items()}
        return _fresh(project, reports)


def _train(project: Project, registry: Registry, seed: int, *, quick: bool) -> tuple[int, ...]:
    """Return the experiments, trained."""
    store, phantom = project.store, project.workspace.root / "phantom"
    if not phantom.exists():
        write_phantom(
            phantom,
            patients=QUICK_PATIENTS if quick else PATIENTS,
            test_patients=QUICK_FRESH if quick else FRESH,
            seed=seed,
            size=PIXELS,
            prevalence={"any": 0.3} if quick else PREVALENCE,
        )
    labels, sample = phantom / "stage_2_train.csv", phantom / "stage_2_sample_submission.csv"
    add_dataset(project, AddRequest("phantom", phantom / "stage_2_train", labels=labels, folds=FOLDS))
    add_dataset(project, AddRequest("phantom-test", phantom / "stage_2_test", test_of="phantom", sample=sample))
    numbers = tuple(sorted(e.number for e in store.experiments(limit=None) if not e.members))
    if not numbers:
        settings = QUICK_STAGES if quick else ()
        requests = [ExperimentRequest(plugin=name, kind=kind, settings=settings) for name, kind in MEMBERS]
        numbers = tuple(new_experiment(store, registry, request).number for request in requests)
    for number in numbers:
        run_experiment(project, number, options=RunOptions(workers=0))
    return numbers


def _sequence(project: Project, plugin: str, members: Sequence[int], *, quick: bool) -> int:
    """Return a sequence experiment on `members`, trained."""
    known = [
        e.number for e in project.store.experiments(limit=None) if (e.plugin, e.members) == (plugin, tuple(members))
    ]
    settings = QUICK_SEQUENCE if quick else ()
    request = ExperimentRequest(plugin=plugin, settings=settings)
    number = known[0] if known else new_sequence(project, request, members)[0].number
    run_experiment(project, number)
    return number


def _fresh(project: Project, reports: dict[str, EnsembleReport]) -> Fresh:
    root = project.workspace.root
    truth = read_labels(root / "phantom/stage_2_test_labels.csv")
    row_of = {image: row for row, image in enumerate(truth.ids)}
    catalog = load_dataset(project, "phantom-test").slices.set_index("slice_id")
    patients = pd.factorize(catalog.loc[list(truth.ids), "patient"])[0].astype(np.int64)
    losses, scores, nested = {}, {}, {}
    for name, report in reports.items():
        table = read_labels(root / report.submissions[0].path)
        predicted = np.empty_like(table.values)
        predicted[[row_of[image] for image in table.ids]] = table.values
        losses[name], scores[name] = weighted_row_losses(truth.values, predicted), score(truth.values, predicted)
        low, high = (None, None) if report.interval is None else (report.interval.low, report.interval.high)
        assert report.ensemble.nested_score is not None
        nested[name] = (report.ensemble.nested_score, low, high)
    return Fresh(losses, scores, nested, patients)


if __name__ == "__main__":
    main()
