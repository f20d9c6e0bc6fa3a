"""Ways on with a store that is not the one that the workspace has used: adopt it, or rebuild it from folders.

`rebuild_store` registers datasets, experiments and ensembles of which the store knows nothing from the records in their
folders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from ichx.datasets.reviews import restore_reviews
from ichx.errors import ConflictError, CorruptFileError, IchxError
from ichx.evaluation.scorecard import update_scores
from ichx.experiments.archive_record import find_members, import_draft, parse_date, pinned_version
from ichx.experiments.folder_record import VERSION_RECORD, folder_problem, read_record
from ichx.experiments.rebuild_ensembles import restore_ensemble
from ichx.files import sha256_file
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import FoldDraft, PredictionDraft, Selection, VersionDraft

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion
    from ichx.store.binding import StoreState

_INVALID = (KeyError, TypeError, ValueError, AttributeError, OverflowError, IntegrityError)


@dataclass
class RebuildReport:
    """What `rebuild_store` registered."""

    versions: list[str] = field(default_factory=list)
    """Dataset versions, e.g. `rsna v2`."""
    experiments: list[int] = field(default_factory=list)
    """Numbers of experiments."""
    ensembles: list[int] = field(default_factory=list)
    """Numbers of ensembles."""
    reviews: int = 0
    """Number of reviews of slices."""
    problems: list[str] = field(default_factory=list)
    """Folders that cannot be registered, one line each."""


def adopt_store(project: "Project") -> "StoreState":
    """Tie the open store to the workspace, whatever both were tied to before; return the store's earlier state.

    Raises:
        ConflictError: A folder of the workspace contains another experiment than the store has under its number.
    """
    problems = []
    for e in project.store.experiments(Selection(kind=None, trashed=None), limit=None):
        if problem := folder_problem(project, project.store.experiment(e.number)):
            problems.append(problem)
    if problems:
        listed = "\n".join(problems[:10]) + (f"\n... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ConflictError(
            f"The store {project.store.name} does not fit the folders of {project.workspace.root}.\n{listed}",
            "Use the store that they belong to, or move these folders to another place first.",
        )
    return project.store.adopt(project.workspace)


def adopt_own_store(project: "Project") -> bool:
    """Tie the open store to the workspace if it is new or an older copy of its store; return whether it was not tied.

    Raises:
        ConflictError: The store belongs to another workspace.
    """
    try:
        project.store.tie(project.workspace)
    except ConflictError:
        state, record = project.store.state(), project.workspace.store_record()
        if state.id is not None and (record is None or record.id != state.id):
            raise
        adopt_store(project)
        return True
    return False


def rebuild_store(project: "Project") -> RebuildReport:
    """Register every dataset version, experiment and ensemble whose folder describes it and which the store lacks.

    Numbers, dates, runs, history, predictions, tags, notes and reviews of slices are those of the records; scores are
    computed again.
    """
    report = RebuildReport()
    records = sorted(project.workspace.datasets_dir.glob(f"*/v*/{VERSION_RECORD}"))
    for test_sets in (False, True):  # a test set refers to its training set
        for path in records:
            _attempt(report, path.parent, partial(_restore_version, project, path, report, test_sets=test_sets))
    known = {e.number for e in project.store.experiments(Selection(kind=None, trashed=None), limit=None)}
    for number in sorted(project.workspace.used_numbers("experiment")):
        folder = project.workspace.experiment_dir(number)
        _attempt(report, folder, partial(_restore_experiment, project, number, known, report))
    for number in sorted(project.workspace.used_numbers("ensemble")):
        _attempt(report, project.workspace.ensemble_dir(number), partial(_restore_ensemble, project, number, report))
    return report


def _attempt(report: RebuildReport, folder: Path, restore: Callable[[], None]) -> None:
    try:
        restore()
    except IchxError as error:
        problem = f"{folder}: {error.problem} {error.remedy}"
        if problem not in report.problems:  # every version is attempted twice
            report.problems.append(problem)
    except _INVALID as error:
        reason = str(error).partition("\n")[0]
        report.problems.append(f"{folder}: its record is invalid ({type(error).__name__} {reason})")


def _restore_version(project: "Project", path: Path, report: RebuildReport, *, test_sets: bool) -> None:
    record = read_record(path)
    if record is None or (record["test_of"] is not None) is not test_sets:
        return
    name, number = str(record["dataset"]), int(record["number"])
    if number in project.store.version_numbers(name):
        if project.store.version(name, number).digest != record["digest"]:
            raise ConflictError(f"The store has another version {number} of {name}.", "Move the folder away.")
        report.reviews += restore_reviews(project, project.store.version(name, number))
        return
    values = {spec.name: record[spec.name] for spec in fields(VersionDraft)}
    values["path"] = path.parent.relative_to(project.workspace.root).as_posix()
    values["folds"] = tuple(FoldDraft(**folds) for folds in record["folds"])
    created = parse_date(record["created"])
    version = project.store.restore_version(VersionDraft(**values), number=number, created=created)
    report.versions.append(f"{name} v{number}")
    report.reviews += restore_reviews(project, version)


def _restore_experiment(project: "Project", number: int, known: set[int], report: RebuildReport) -> None:
    files = project.workspace.experiment_files(number)
    record = read_record(files.record)
    if record is None:
        if number not in known and files.has_training():
            report.problems.append(f"{files.folder}: it has no {files.record.name}, so nothing is known about it")
        return
    if number in known:
        experiment = project.store.experiment(number)
        if experiment.id != record["id"]:
            raise ConflictError(
                f"The store has another experiment {number}, {experiment.name}.", "Move the folder elsewhere."
            )
        return
    if record["number"] != number:
        raise CorruptFileError(f"Its record is that of experiment {record['number']}.", "Rename the folder.")
    recipe = from_toml(record["experiment"]["recipe"], source=str(files.record))
    if digest(recipe) != record["experiment"]["recipe_digest"]:
        raise ValueError("the recipe does not have the recorded digest")
    pinned = pinned_version(project.store, record["dataset"])
    found = [_prediction(project, entry, files.folder, pinned[0]) for entry in record["predictions"]]
    predictions = [prediction for prediction in found if prediction is not None]
    members = find_members(project.store, record)
    draft = import_draft(record, recipe, pinned, record.get("origin"), predictions, members)
    parent = record.get("parent")
    if parent is not None and parent in known | set(report.experiments):
        draft = replace(draft, experiment=replace(draft.experiment, parent=int(parent)))
    created = parse_date(record["created"])
    project.store.restore_experiment(draft, number=number, created=created, root="experiments")
    report.experiments.append(number)
    if record.get("archived"):
        project.store.archive([number])
    update_scores(project, number)


def _restore_ensemble(project: "Project", number: int, report: RebuildReport) -> None:
    if restore_ensemble(project, number):
        report.ensembles.append(number)


def _prediction(
    project: "Project", entry: Mapping[str, Any], folder: Path, pinned: "DatasetVersion"
) -> PredictionDraft | None:
    """Return the draft of a prediction; None if its file is missing or differs from its record."""
    name, path = str(entry["file"]), folder / str(entry["file"])
    if not path.is_file() or sha256_file(path) != entry["digest"]:
        return None
    version = pinned
    if entry["role"] != "oof":
        if entry["version"] not in project.store.version_numbers(entry["dataset"]):
            return None
        version = project.store.version(entry["dataset"], entry["version"])
    return PredictionDraft(
        experiment=0,
        fold=int(entry["fold"]),
        version_id=version.id,
        role=str(entry["role"]),
        view=str(entry["view"]),
        path=name,
        slices=int(entry["slices"]),
        digest=str(entry["digest"]),
        score=None if entry["score"] is None else float(entry["score"]),
    )
