"""What the store and the files say of an experiment's folds: finished, predicted, scored, held. Without torch."""

from typing import TYPE_CHECKING

from ichx.evaluation.choices import VIEWS
from ichx.store.runs import LIVE_STATES

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, Run, Store


def finished_folds(project: "Project", number: int) -> set[int]:
    """Return the folds whose OOF predictions are recorded and whose files are there."""
    stored = [p for p in project.store.predictions(number, role="oof") if (project.workspace.root / p.path).is_file()]
    return {
        fold
        for fold in {p.fold for p in stored}
        if {p.view for p in stored if p.fold == fold} >= set(VIEWS)
        and (project.workspace.experiment_dir(number) / f"fold-{fold}" / "weights.safetensors").is_file()
    }


def unpredicted_folds(project: "Project", number: int) -> set[int]:
    """Return the folds that were finished and have their weights, but whose OOF predictions are gone."""
    recorded = {p.fold for p in project.store.predictions(number, role="oof")}
    home = project.workspace.experiment_dir(number)
    weighed = {fold for fold in recorded if (home / f"fold-{fold}" / "weights.safetensors").is_file()}
    return weighed - finished_folds(project, number)


def missing_tests(project: "Project", experiment: "Experiment", fold: int) -> "list[DatasetVersion]":
    """Return the test sets that the fold has not predicted in every view; a tuning trial predicts none."""
    missing: list[DatasetVersion] = []
    if experiment.kind == "trial":
        return missing
    for version in project.store.test_sets(experiment.dataset):
        have = {
            p.view
            for p in project.store.predictions(experiment.number, role="test", version_id=version.id)
            if p.fold == fold and (project.workspace.root / p.path).is_file()
        }
        if have < set(VIEWS):
            missing.append(version)
    return missing


def fold_score(store: "Store", experiment: int, fold: int) -> float | None:
    """Return the experiment's OOF score on the fold, without test-time augmentation; None before it is predicted."""
    scores = [p.score for p in store.predictions(experiment, role="oof", view="identity") if p.fold == fold]
    return scores[0] if scores else None


def live_run(store: "Store", experiment: int, fold: int) -> "Run | None":
    """Return the run that holds the fold at this moment, if any does."""
    return next((run for run in store.runs(experiment, fold) if run.state in LIVE_STATES), None)
