"""Importing and exporting folds as a CSV, and describing the folds of a version. The CSV is read in `fold_csv`.

Folds that split a patient are leaky: a model is scored on patients of its training data. They are rejected unless leaks
are allowed, which marks every score on them.
"""

import gzip
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import hash_ids, usable_slices, write_parquet
from ichx.datasets.csv_text import list_rows, raise_csv_problems
from ichx.datasets.dataset import DEFAULT_FOLDS, folds_file, load_catalog, load_folds, load_version
from ichx.datasets.fold_csv import FoldTable, read_folds
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.folds import Leak, find_leaks, fold_digest
from ichx.datasets.id_matching import COLUMN_NAMES, spell_like
from ichx.datasets.ingest import file_stem
from ichx.datasets.new_version import NAME_REMEDY, check_name, store_version
from ichx.datasets.pseudo_parts import check_imported_folds
from ichx.datasets.summary import prevalences, summarize_folds
from ichx.errors import ConflictError, InvalidInputError
from ichx.files import write_with
from ichx.store import DatasetVersion, FoldDraft, FoldSet, VersionDraft
from ichx.text import EXAMPLES, format_count, format_examples
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class ImportReport:
    """Result of `import_folds`."""

    version: DatasetVersion
    fold_set: FoldSet
    created: bool
    """False if the newest version has these folds under this name."""
    leaks: tuple[Leak, ...]
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


class LeakyFoldsError(ConflictError):
    """Folds split patients (`leaks`), and leaks are not allowed."""

    def __init__(self, problem: str, remedy: str, leaks: Sequence[Leak] = ()) -> None:
        super().__init__(problem, remedy)
        self.leaks = tuple(leaks)

    def to_dict(self) -> dict[str, object]:
        """Return the error with its leaks."""
        return super().to_dict() | {"leaks": self.leaks}


def import_folds(
    project: "Project",
    dataset: str,
    path: Path,
    *,
    name: str | None = None,
    allow_leaks: bool = False,
) -> ImportReport:
    """Add a version of `dataset` with the folds of a CSV; slices, labels and other folds are those of the newest one.

    Args:
        project: Workspace and store.
        dataset: A labelled dataset.
        path: The CSV, see `read_folds`.
        name: Name of the folds, by default the file's; existing folds of that name are replaced.
        allow_leaks: Accept folds that split patients.

    Raises:
        LeakyFoldsError: The folds split patients, and leaks are not allowed.
        ConflictError: The dataset has no labels, or the folds do not suit its pseudo-labels.
        InvalidInputError: The name or the file is invalid, ids are unknown, or slices have no fold.
    """
    version = project.store.version(dataset)
    if version.label_digest is None or version.test_of is not None:
        raise _no_folds(dataset)
    name = _fold_set_name(name, path)
    table = read_folds(path)
    catalog = load_catalog(project.workspace, version)
    slices = usable_slices(catalog)
    key = None if version.summary["keep_ids"] else project.workspace.privacy_key()
    match = _match(version, slices, table, path, key)
    messages = _check_match(version, catalog, slices, match, path)
    folds = table.folds[match.row]
    if train_only := int((folds == TRAIN_ONLY).sum()):
        messages.append(f"{format_count(train_only, 'slice')} train in every fold and are scored in none (fold -1).")
    check_imported_folds(project, version, table.k, slices, folds)
    ids = slices["slice_id"].to_numpy(object)
    leaks = find_leaks(ids, slices["patient"].to_numpy(object), folds)
    warnings = []
    if leaks:
        count = (
            f"{len(leaks):,} of {format_count(version.patients, 'patient')} ({len(leaks) / version.patients:.1%}) "
            "in more than one fold"
        )
        if not allow_leaks:
            raise LeakyFoldsError(
                f"{path}: {count}{format_examples(map(_format_leak, leaks[:EXAMPLES]), len(leaks))}. A model would be "
                "scored on patients of its training data."
                + " PatientIDs that share studies or series count as one patient."
                * bool(slices["patient_id"].any()),
                f"Use the default folds of {dataset}, which are grouped by patient; or give all slices of a patient "
                "one fold in the file; or import it with --allow-leaks, which marks every score on these folds.",
                leaks,
            )
        warnings.append(f"{count}: every score on these folds is marked `leaky folds`.")
    digest = fold_digest(ids, folds)
    draft = FoldDraft(name, table.k, 0, digest, leaking_patients=len(leaks), source=path.name)
    before = next((f for f in version.folds if f.name == name), None)
    if before is not None and (before.k, before.digest) == (draft.k, draft.digest):
        return ImportReport(version, before, False, tuple(leaks), tuple(messages), tuple(warnings))
    if before is not None:
        messages.append(f"Replaced the folds {name} of version {version.number}, digest {before.digest}.")
    if twin := next((f.name for f in version.folds if f.digest == digest), None):
        messages.append(f"Each slice is in the same fold as in the folds {twin}.")
    added = _add_version(project, version, draft, slices, folds)
    return ImportReport(added, added.fold_set(name), True, tuple(leaks), tuple(messages), tuple(warnings))


def export_folds(
    project: "Project", dataset: str, path: Path, number: int | None = None, name: str | None = None
) -> FoldSet:
    """Write the folds of a version (the newest) called `name` (the first) to a CSV that `import_folds` reads.

    It has the columns `slice_id` and `fold`, and is compressed if the name ends in `.gz`.

    Raises:
        NotFoundError: There is no such dataset, version or fold set.
        NotReadyError: The version has no folds.
        StorageError: The file cannot be written.
    """
    version = project.store.version(dataset, number)
    fold_set = version.fold_set(name)
    slices = load_version(project.workspace, version).slices
    table = pd.DataFrame(
        {"slice_id": slices["slice_id"], "fold": load_folds(project.workspace, version, fold_set, slices)}
    )
    content = table.to_csv(index=False, lineterminator="\n").encode()
    content = gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content
    write_with(path, lambda draft: draft.write_bytes(content), "the folds")
    return fold_set


def describe_folds(
    project: "Project", dataset: str, number: int | None = None, name: str | None = None
) -> dict[str, Any]:
    """Return a description of the folds of a version (the newest), or only of those called `name`.

    `version`; `group_by`, `patient` or `study`; `fold_sets`, each with its row in the store, whether it is the
    `default`, the `prevalences` of all slices, the largest relative `deviation` of a fold's prevalence from that of
    all scored slices (None if no label has positives), its `folds` (see `ichx.datasets.summary`) and its `leaks`.

    Raises:
        NotFoundError: There is no such dataset, version or fold set.
        ConflictError: The dataset has no labels.
        NotReadyError: It has no folds.
    """
    version = project.store.version(dataset, number)
    if version.label_digest is None or version.test_of is not None:
        raise _no_folds(dataset)
    named = version.fold_set(name)
    fold_sets = version.folds if name is None else (named,)
    slices = load_version(project.workspace, version).slices
    described = describe_fold_sets(project.workspace, version, fold_sets, slices)
    return {"version": version, "group_by": version.summary.get("group_by", "patient"), "fold_sets": described}


def describe_fold_sets(
    workspace: Workspace, version: DatasetVersion, fold_sets: Sequence[FoldSet], slices: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the descriptions of `fold_sets` of `version`, whose `slices` are loaded; see `describe_folds`."""
    ids, patients = (slices[column].to_numpy(object) for column in ("slice_id", "patient"))
    overall = version.summary["prevalences"]
    described = []
    for fold_set in fold_sets:
        assigned = load_folds(workspace, version, fold_set, slices)
        folds = summarize_folds(slices, assigned, fold_set.k)
        scored = overall
        if (assigned == TRAIN_ONLY).any():
            scored = prevalences(slices[assigned != TRAIN_ONLY])
        deviations = [
            abs(fold["prevalences"][label] / share - 1)
            for fold in folds[: fold_set.k]
            for label, share in (scored or {}).items()
            if share and fold["prevalences"][label] is not None
        ]
        described.append(
            {
                "fold_set": fold_set,
                "default": fold_set.name == DEFAULT_FOLDS,
                "prevalences": overall,
                "deviation": max(deviations, default=None),
                "folds": folds,
                "leaks": find_leaks(ids, patients, assigned),
            }
        )
    return described


def _no_folds(dataset: str) -> ConflictError:
    return ConflictError(f"Dataset {dataset} has no labels, so it has no folds.", "Name a labelled dataset.")


def _fold_set_name(name: str | None, path: Path) -> str:
    wanted = re.sub(r"\.(csv|gz|txt)", "", path.name, flags=re.IGNORECASE) if name is None else name
    if wanted == DEFAULT_FOLDS:
        raise ConflictError(
            f"The name {DEFAULT_FOLDS!r} is reserved for the folds that ichx assigns.",
            "Give the imported folds another name with --name.",
        )
    check_name(wanted, "folds", f"Give a name with --name. {NAME_REMEDY}")
    return wanted


@dataclass(frozen=True)
class _FoldMatch:
    """How the ids of a CSV of folds match the slices of a version."""

    table: FoldTable
    by: str
    """Matched column of the catalog."""
    index: "pd.Index[str]"
    """(N,) ids in the form of that column."""
    row: npt.NDArray[np.int64]
    """(n,) id of each slice, -1 for none."""


def _match(
    version: DatasetVersion, slices: pd.DataFrame, table: FoldTable, path: Path, key: bytes | None
) -> _FoldMatch:
    """Return the match of the most slices among the forms that the ids may have, the first of equals.

    `key` is the key of the hashes of patient ids; None if ids are stored.
    """
    best: _FoldMatch | None = None
    most = 0
    forms = _patient_forms(table.ids, slices, key) if table.of_patients else _slice_forms(table.ids, slices)
    for by, ids, known in forms:
        index = pd.Index(ids)
        row = index.get_indexer(pd.Index(known.to_numpy(object)))
        found = int((row >= 0).sum())
        if found > most:
            best, most = _FoldMatch(table, by, index, row), found
        if found == len(slices):
            break
    if best is None:
        first = slices.iloc[0]
        expected = (
            "Patient ids are stored as keyed hashes"
            if table.of_patients
            else f"The first slice is {first['slice_id']!r} in the file {first['file']!r}"
        )
        raise InvalidInputError(
            f"No id in {path}, e.g. {str(table.ids[0])!r}, matches a {_owner(table)} of {version.dataset} version "
            f"{version.number}. {expected}.",
            "Use SOPInstanceUIDs, distinct file names, or (in a column `patient_id`) PatientIDs as in the files.",
        )
    return best


_Forms = Iterator[tuple[str, npt.NDArray[np.object_], pd.Series]]


def _slice_forms(ids: npt.NDArray[np.object_], slices: pd.DataFrame) -> _Forms:
    """Yield columns of the catalog that the ids may be, the ids in the form of that column, and the column."""
    yield "slice_id", ids, slices["slice_id"]
    yield "file", ids, slices["file"]
    if slices["stem"].is_unique:
        yield "stem", ids, slices["stem"]
        for stems in (np.array([file_stem(str(i)) for i in ids], object), spell_like(ids, slices["stem"])):
            if len(set(stems)) == len(ids):
                yield "stem", stems, slices["stem"]


def _patient_forms(ids: npt.NDArray[np.object_], slices: pd.DataFrame, key: bytes | None) -> _Forms:
    """Yield the ids as PatientIDs, and as the stored hashes, which ichx shows."""
    # Several PatientIDs may have been joined to one patient.
    own = slices["patient_id"].where(slices["patient_id"] != "", slices["patient"])
    if key is not None:
        yield "patient", hash_ids(pd.Series(ids, dtype=object), key).to_numpy(object), own
    yield "patient", ids, own
    yield "patient", ids, slices["patient"]


def _check_match(
    version: DatasetVersion, catalog: pd.DataFrame, slices: pd.DataFrame, match: _FoldMatch, path: Path
) -> list[str]:
    """Return messages about the match. Raises `InvalidInputError` unless each slice has a fold and each id a slice."""
    table, row, owner = match.table, match.row, _owner(match.table)
    excluded = catalog[catalog["defect"].notna()]
    used = np.zeros(len(match.index), bool)
    used[row[row >= 0]] = True
    defective = ~used
    defective &= match.index.isin(pd.concat([excluded[name] for name in ("slice_id", "file", "stem")]).to_numpy(object))
    names = slices["slice_id" if table.of_patients else match.by]
    problems = list_rows(
        "id", f"of no {owner} of {version.dataset}", np.flatnonzero(~used & ~defective), lambda i: str(table.ids[i])
    )
    problems += list_rows(
        "slice", f"of {len(slices):,} without a fold", np.flatnonzero(row < 0), lambda i: str(names.iloc[i])
    )
    empty = sorted(set(range(table.k)) - set(table.folds[row].tolist()))
    if empty and not problems:
        problems.append(f"no slice in fold {', '.join(str(fold + table.one_based) for fold in empty)}")
    raise_csv_problems(
        path,
        problems,
        f"Each slice of version {version.number} needs one fold. Complete the file, or remove ids that are not in the "
        "dataset.",
    )
    columns = f"{owner}s in column {table.id_column!r}, folds in column {table.fold_column!r}"
    numbering = ", renumbered from 0" if table.one_based else ""
    count = format_count(len(match.index), owner)
    messages = [f"Folds of {count} ({columns}{numbering}), matched by {COLUMN_NAMES[match.by]}."]
    if table.duplicates:
        messages.append(f"Merged {format_count(table.duplicates, 'duplicate row')}.")
    if defective.any():
        messages.append(f"{format_count(int(defective.sum()), 'id')} of excluded files.")
    return messages


def _owner(table: FoldTable) -> str:
    return "patient" if table.of_patients else "slice"


def _format_leak(leak: Leak) -> str:
    """Return the patient of a leak with two of its slices."""
    slices = [f"{slice_id} in fold {fold}" for fold, slice_id in list(leak.examples.items())[:2]]
    return f"{leak.patient}: {', '.join(slices)}"


def _add_version(
    project: "Project",
    version: DatasetVersion,
    folds: FoldDraft,
    slices: pd.DataFrame,
    assigned: npt.NDArray[np.int16],
) -> DatasetVersion:
    """Add the next version: a copy of `version` with `folds`."""
    owner = "slice_id" if folds.leaky else "patient"
    frame = pd.DataFrame({owner: slices[owner], "fold": assigned}).drop_duplicates()

    def write(folder: Path) -> None:
        shutil.copytree(project.workspace.root / version.path, folder, dirs_exist_ok=True)
        write_parquet(frame, folder / folds_file(folds.name))

    values = {field.name: getattr(version, field.name) for field in fields(VersionDraft)}
    others = [FoldDraft(**{f.name: getattr(old, f.name) for f in fields(FoldDraft)}) for old in version.folds]
    values["folds"] = (*(old for old in others if old.name != folds.name), folds)
    return store_version(project, VersionDraft(**values), version.number + 1, write)
