"""Imports an experiment from a file that `archive_export` wrote, on another machine or in another workspace.

The file is not trusted: only members with known names and sizes are read and checked against the records, and after an
error nothing is left behind.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from ichx.datasets.dataset import load_version
from ichx.errors import ConflictError
from ichx.evaluation.predictions import read_predictions
from ichx.evaluation.scorecard import update_scores
from ichx.experiment_files import WEIGHTS_FILE
from ichx.experiments.archive_export import FORMAT, INDEX, SUBSET_FORMAT
from ichx.experiments.archive_file import ArchiveKind, OpenArchive, open_archive
from ichx.experiments.archive_record import (
    find_members,
    finite_score,
    import_draft,
    pinned_version,
    record_number,
    workspace_name,
)
from ichx.experiments.folder_record import describe_folder
from ichx.files import sha256_file
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import PredictionDraft, Selection
from ichx.text import format_command, format_count
from ichx.views import is_view

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet

_MEMBER = re.compile(
    r"fold-\d{1,4}/([A-Za-z0-9._-]{1,200}\.(parquet|safetensors|log|diff)|inputs\.json|"
    r"checkpoint-\d{3}-\d{5}-\d{9}\.pt)|(start|thresholds|recalibrations)\.json"
)
KIND = ArchiveKind(
    "experiment",
    INDEX,
    _MEMBER,
    (FORMAT, SUBSET_FORMAT),
    compressed=True,
    remedy="Use a file that `ichx exp export` wrote.",
)


@dataclass(frozen=True)
class Imported:
    """An imported experiment: its new number, its number in the archive, and what was left out, one line each."""

    number: int
    was: int
    left_out: tuple[str, ...]
    present: bool = False
    """Whether this workspace had it already."""


def import_experiment(project: "Project", file: Path, *, again: bool = False, reuse: bool = False) -> Imported:
    """Register the experiment in `file` under a new number, on the dataset of this workspace with its labels and folds.

    Args:
        project: The open project.
        file: The archive.
        again: Import it although this workspace has the experiment.
        reuse: Return the experiment of this workspace if it has it.

    Raises:
        ConflictError: This workspace has the experiment, and `again` and `reuse` are False, or it is in the trash.
        CorruptFileError: The file is not an archive of an experiment, is damaged or hostile.
        NotReadyError: No dataset of this workspace has its labels and folds.
        NotFoundError: The file or the plugin does not exist.
        StorageError: The workspace cannot be written.
    """
    with open_archive(project, file, KIND) as archive:
        existing = None if again else _existing(project, archive.index)
        if existing is not None and reuse and existing.trashed is None:
            return Imported(existing.number, record_number(archive.index["number"]), (), present=True)
        if existing is not None:
            raise _exists(existing, file)
        return _import(project, archive, file)


def _import(project: "Project", archive: OpenArchive, file: Path) -> Imported:
    index, folder = archive.index, archive.folder
    facts, was = index["experiment"], record_number(index["number"])
    recipe = from_toml(facts["recipe"], source=f"the recipe in {file}")
    if digest(recipe) != facts["recipe_digest"]:
        raise ValueError("the recipe does not have the recorded digest")
    project.registry.get(recipe.plugin)
    version, fold_set = pinned = pinned_version(project.store, index["dataset"])
    absent: Counter[str] = Counter()
    for member in archive.zip.infolist():
        if member.filename != INDEX:
            archive.extract(member)
    predictions = [
        (name, draft)
        for entry in index["predictions"]
        for name, draft in _prediction(project, entry, folder, version, fold_set, absent)
    ]
    left_out = [
        f"{format_count(count, 'prediction')} of {name}: no test set of this workspace has these slices"
        for name, count in absent.items()
    ]
    if not any(name.endswith(WEIGHTS_FILE) for name in archive.zip.namelist()) and predictions:
        left_out.append("the archive has no weights: `ichx run` would train the folds again")
    places = [(draft.role, draft.fold, draft.version_id, draft.view) for _, draft in predictions]
    if len(set(places)) < len(places):
        raise ValueError("it has a prediction twice")
    origin = {"number": was, "workspace": workspace_name(index)}
    origin |= {"id": str(index["id"])[:64]} if "id" in index else {}
    members = find_members(project.store, index)
    imported = import_draft(index, recipe, pinned, origin, [draft for _, draft in predictions], members)
    made = project.store.import_experiment(
        imported, place=lambda number: folder.rename(project.workspace.experiment_dir(number)), root="experiments"
    )
    update_scores(project, made.number)
    describe_folder(project, project.store.experiment(made.number))
    return Imported(made.number, was, tuple(left_out))


def _existing(project: "Project", index: Mapping[str, Any]) -> "Experiment | None":
    """Return the experiment of `index` if this workspace has it, imported or as the original."""
    facts, pinned = index["experiment"], index["dataset"]
    digests = (facts["recipe_digest"], pinned["label_digest"], pinned["fold_digest"])
    place = (index["number"], workspace_name(index))
    for summary in project.store.experiments(Selection(kind=None, trashed=None), limit=None):
        e = project.store.experiment(summary.number)
        if (e.recipe_digest, e.label_digest, e.fold_digest) != digests:
            continue
        origin = e.origin or {"id": e.id, "number": e.number, "workspace": project.workspace.root.name}
        if (
            index["id"] == origin["id"]
            if "id" in index and "id" in origin
            else place == (origin["number"], origin["workspace"])
        ):
            return e
    return None


def _exists(e: "Experiment", file: Path) -> ConflictError:
    what = "is" if e.origin is None else "was imported before, as"
    where = "" if e.trashed is None else ", which is in the trash"
    return ConflictError(
        f"The experiment in {file} {what} experiment {e.number} of this workspace{where}.",
        f"{format_command('ichx exp import', file, '--again')} imports a copy under a new number.",
    )


def _prediction(
    project: "Project",
    entry: Mapping[str, Any],
    folder: Path,
    version: "DatasetVersion",
    fold_set: "FoldSet",
    absent: Counter[str],
) -> list[tuple[str, PredictionDraft]]:
    """Return the draft of a prediction whose file matches its record; nothing for a test set that is missing here."""
    name, role, view = str(entry["file"]), str(entry["role"]), str(entry["view"])
    path = folder / name
    if not _MEMBER.fullmatch(name) or not path.is_file():
        raise ValueError(f"{name!r} is listed but missing")
    if role not in ("oof", "test") or not is_view(view) or not 0 <= int(entry["fold"]) < fold_set.k:
        raise ValueError(f"{name} is not the prediction of a fold in a view")
    if sha256_file(path) != entry["digest"]:
        raise ValueError(f"{name} differs from its recorded digest")
    with pq.ParquetFile(path) as content:
        rows = content.metadata.num_rows
    tests = project.store.test_sets(version.dataset) if role == "test" else []
    most = version.slices if role == "oof" else max((test.slices for test in tests), default=0)
    if rows != int(entry["slices"]) or (role == "oof" and rows > most):
        raise ValueError(f"{name} has {rows:,} rows, not one per slice")
    if rows > most:  # checked before reading: a small file may contain any number of equal rows
        return _without(path, entry, absent)
    ids = read_predictions(path).slice_ids
    target: DatasetVersion | None = version
    if role == "test":
        target = _test_set(project, version.dataset, set(ids))
        if target is None:
            return _without(path, entry, absent)
    assert target is not None
    draft = PredictionDraft(
        experiment=0,
        fold=int(entry["fold"]),
        version_id=target.id,
        role=role,
        view=view,
        path=name,
        slices=len(ids),
        digest=str(entry["digest"]),
        score=None if entry["score"] is None else finite_score(entry["score"]),
    )
    return [(name, draft)]


def _without(path: Path, entry: Mapping[str, Any], absent: Counter[str]) -> list[tuple[str, PredictionDraft]]:
    """Leave out the prediction of a test set that is missing here, and count it by dataset in `absent`."""
    absent[str(entry["dataset"])] += 1
    path.unlink()
    return []


def _test_set(project: "Project", dataset: str, ids: set[str]) -> "DatasetVersion | None":
    for version in project.store.test_sets(dataset):
        if ids <= set(load_version(project.workspace, version).slices["slice_id"]):
            return version
    return None
