"""Status of an experiment's folds by store and files: finished, predicted, scored, running. No torch."""

from typing import TYPE_CHECKING

from ichx.evaluation.choices import views_of
from ichx.evaluation.feature_files import features_file
from ichx.files import is_announced_file
from ichx.store.runs import LIVE_STATES

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, Prediction, Run, Store


def finished_folds(project: "Project", experiment: "Experiment") -> set[int]:
    """Return the folds whose OOF predictions are recorded and whose files exist; external ones have no weights."""
    recorded = project.store.predictions(experiment.number, role="oof")
    views, external = set(views_of(experiment)), experiment.external
    stored = [p for p in recorded if is_announced_file(project.workspace.root / p.path)]
    return {
        fold
        for fold in {p.fold for p in stored}
        if {p.view for p in stored if p.fold == fold} >= views
        and (external or _has_weights(project, experiment.number, fold))
    }


def unpredicted_folds(project: "Project", experiment: "Experiment") -> set[int]:
    """Return the folds that were finished and have their weights, but whose OOF predictions are gone."""
    recorded = {p.fold for p in project.store.predictions(experiment.number, role="oof")}
    trained = {fold for fold in recorded if _has_weights(project, experiment.number, fold)}
    return trained - finished_folds(project, experiment)


def missing_tests(project: "Project", experiment: "Experiment", fold: int) -> "list[DatasetVersion]":
    """Return the test sets that the fold has not predicted in every view; trials and quick looks predict none."""
    missing: list[DatasetVersion] = []
    if experiment.kind == "trial" or experiment.subset < 1:
        return missing
    for version in project.store.test_sets(experiment.dataset):
        views = {
            p.view
            for p in project.store.predictions(experiment.number, role="test", version_id=version.id)
            if p.fold == fold and is_announced_file(project.workspace.root / p.path)
        }
        if views < set(views_of(experiment)):
            missing.append(version)
    return missing


def missing_features(project: "Project", number: int, fold: int) -> "list[Prediction]":
    """Return the fold's OOF and test predictions without pooled features."""
    root = project.workspace.root
    return [
        p
        for p in project.store.predictions(number)
        if p.fold == fold and p.role in ("oof", "test") and not features_file(root / p.path).is_file()
    ]


def fold_score(store: "Store", experiment: int, fold: int) -> float | None:
    """Return the OOF score of the fold without test-time augmentation; None before it is predicted."""
    scores = [p.score for p in store.predictions(experiment, role="oof", view="identity") if p.fold == fold]
    return scores[0] if scores else None


def live_run(store: "Store", experiment: int, fold: int) -> "Run | None":
    """Return the run that holds the fold now, if there is one."""
    return next((run for run in store.runs(experiment, fold) if run.state in LIVE_STATES), None)


def _has_weights(project: "Project", number: int, fold: int) -> bool:
    return is_announced_file(project.workspace.experiment_files(number).fold(fold).weights)
