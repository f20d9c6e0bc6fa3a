"""Someone else's folds as a new version of a dataset, and what there is to tell of a version's folds.

Folds that split a patient let a model be scored on patients that it was trained on: they are refused unless leaks are
allowed, and then mark every score on them. Not for reading the CSV (`ichx.datasets.fold_csv`).
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.add import write_folder
from ichx.datasets.catalog import hash_ids, usable, write_parquet
from ichx.datasets.dataset import DEFAULT_FOLDS, folds_file, load_catalog, load_folds, load_version
from ichx.datasets.fold_csv import FoldTable, read_folds
from ichx.datasets.folds import Leak, find_leaks, fold_digest
from ichx.datasets.ingest import file_stem
from ichx.datasets.summary import summarize_folds
from ichx.errors import IchxError, raise_problems
from ichx.store import DatasetVersion, FoldDraft, FoldSet, VersionDraft
from ichx.text import EXAMPLES, format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class ImportReport:
    """What `import_folds` did. `created` is False when `version` had these very folds under this name.

    `leaks` are the patients in more than one fold; `messages` tell what was found, `warnings` what deserves a look.
    """

    version: DatasetVersion
    fold_set: FoldSet
    created: bool
    leaks: tuple[Leak, ...]
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


class LeakyFoldsError(IchxError):
    """Folds that split patients, `leaks`, where leaks are not allowed."""

    def __init__(self, problem: str, remedy: str, leaks: Sequence[Leak] = ()) -> None:
        super().__init__(problem, remedy)
        self.leaks = tuple(leaks)


def import_folds(
    project: "Project",
    dataset: str,
    path: Path,
    *,
    name: str | None = None,
    allow_leaks: bool = False,
) -> ImportReport:
    """Give `dataset` a new version that has the folds of the CSV at `path` too, called `name` (the file's name).

    The newest version's slices, labels and other folds stay as they are; folds of the same name are replaced.
    Raises `LeakyFoldsError` for folds that split patients unless `allow_leaks`, and `IchxError` for a dataset without
    labels, a name that cannot be, and all that is wrong with the file: its form, unknown ids, slices without a fold.
    """
    version = project.store.version(dataset)
    if version.label_digest is None or version.test_of is not None:
        raise _no_folds(dataset)
    name = _checked_name(name, path)
    table = read_folds(path)
    catalog = load_catalog(project.workspace, version)
    slices = usable(catalog)
    key = None if version.summary["keep_ids"] else project.workspace.privacy_key()
    folds, messages = _folds_of_slices(version, catalog, slices, table, path, key)
    ids = slices["slice_id"].to_numpy(object)
    leaks = find_leaks(ids, slices["patient"].to_numpy(object), folds)
    if leaks and not allow_leaks:
        raise LeakyFoldsError(
            f"{path}: {format_leaks(leaks, version.patients)}{format_examples(_examples(leaks), len(leaks))}\n"
            "a model would be scored on patients that it was trained on, and its score would flatter it",
            f"use {dataset}'s own folds, which are grouped by patient and need no import; or give all slices of a "
            "patient one fold in the file; or import it with --allow-leaks, which marks every score on these folds",
            leaks,
        )
    warnings = []
    if leaks:
        warnings.append(f"{format_leaks(leaks, version.patients)}: every score on these folds is marked `leaky folds`")
    digest = fold_digest(ids, folds)
    draft = FoldDraft(name, table.k, 0, digest, leaking_patients=len(leaks), source=path.name)
    before = next((f for f in version.folds if f.name == name), None)
    if before is not None and (before.k, before.digest) == (draft.k, draft.digest):
        return ImportReport(version, before, False, tuple(leaks), tuple(messages), tuple(warnings))
    if before is not None:
        messages.append(f"in place of the folds {name} of version {version.number}, digest {before.digest}")
    twin = next((f.name for f in version.folds if f.digest == digest), None)
    if twin is not None:
        messages.append(f"each slice is in the same fold as in the folds {twin}")
    added = _add_version(project, version, draft, slices, folds)
    fold_set = next(f for f in added.folds if f.name == name)
    return ImportReport(added, fold_set, True, tuple(leaks), tuple(messages), tuple(warnings))


def describe_folds(
    project: "Project", dataset: str, number: int | None = None, name: str | None = None
) -> dict[str, Any]:
    """Return what there is to tell of the folds of a version (the newest), or of those called `name` alone.

    `version`; `fold_sets`, each with its record, whether it is the `default`, the `prevalences` of the whole, the
    largest relative `deviation` of a fold's prevalence from it (None where a label has no positives), its `folds` (see
    `ichx.datasets.summary`) and its `leaks`. Raises `IchxError` for unknown names.
    """
    version = project.store.version(dataset, number)
    if not version.folds:
        raise _no_folds(dataset)
    chosen = version.folds if name is None else (version.fold_set(name),)
    slices = load_version(project.workspace, version).slices
    ids, patients = (slices[column].to_numpy(object) for column in ("slice_id", "patient"))
    whole = version.summary["prevalences"]
    told = []
    for fold_set in chosen:
        assigned = load_folds(project.workspace, version, fold_set, slices)
        folds = summarize_folds(slices, assigned, fold_set.k)
        off = [abs(fold["prevalences"][label] / share - 1) for fold in folds for label, share in whole.items() if share]
        told.append(
            {
                "fold_set": fold_set,
                "default": fold_set.name == DEFAULT_FOLDS,
                "prevalences": whole,
                "deviation": max(off, default=None),
                "folds": folds,
                "leaks": find_leaks(ids, patients, assigned),
            }
        )
    return {"version": version, "fold_sets": told}


def format_leaks(leaks: Sequence[Leak], patients: int) -> str:
    """Return how many of all `patients` are in more than one fold, in words."""
    return f"{len(leaks):,} of {format_count(patients, 'patient')} ({len(leaks) / patients:.1%}) in more than one fold"


def _no_folds(dataset: str) -> IchxError:
    return IchxError(f"{dataset} is not trained on, so it has no folds", "name a dataset that was added with labels")


def _checked_name(name: str | None, path: Path) -> str:
    wanted = re.sub(r"\.(csv|gz|txt)", "", path.name, flags=re.IGNORECASE) if name is None else name
    if wanted == DEFAULT_FOLDS:
        problem = f"{DEFAULT_FOLDS!r} are the folds that ichx drew itself"
        raise IchxError(problem, "give the imported ones another name with --name")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", wanted):
        raise IchxError(
            f"{wanted!r} is no name for folds",
            "give one with --name: letters, digits, '-', '_' and '.', at most 100, not beginning with '-' or '.'",
        )
    return wanted


def _folds_of_slices(
    version: DatasetVersion,
    catalog: pd.DataFrame,
    slices: pd.DataFrame,
    table: FoldTable,
    path: Path,
    key: bytes | None,
) -> tuple[npt.NDArray[np.int16], list[str]]:
    """Return the fold of each of `slices`, (n,), and what is to be said of how `table` fits them.

    `key` is what patient ids are hashed with, None where they are kept.
    """
    refused = catalog[catalog["defect"].notna()]
    forms = _patient_forms(table.ids, key) if table.of_patients else _slice_forms(table.ids, slices)
    by, index, row = _best(forms, slices)
    owner = "patient" if table.of_patients else "slice"
    if not (row >= 0).any():
        first = slices.iloc[0]
        known = (
            "patient ids are kept as keyed hashes; give them as they stand in the files"
            if table.of_patients
            else f"the first slice is {first['slice_id']!r} in the file {first['file']!r}"
        )
        raise IchxError(
            f"no id in {path} belongs to a {owner} of {version.dataset} version {version.number}: "
            f"it says such as {str(table.ids[0])!r}; {known}",
            "ids must be SOPInstanceUIDs, file names that occur once, or (in a column `patient_id`) PatientIDs",
        )
    messages = [f"folds of {format_count(len(index), owner)}, {table.told}, matched by {_WORDS[by]}"]
    if table.merged:
        messages.append(f"{format_count(table.merged, 'row')} said again what others had said: merged")
    problems = []
    used = np.zeros(len(index), bool)
    used[row[row >= 0]] = True
    defective = ~used
    defective &= index.isin(pd.concat([refused[name] for name in ("slice_id", "file", "stem")]).to_numpy(object))
    unknown = np.flatnonzero(~used & ~defective)
    if len(unknown):
        such = format_examples(table.ids[unknown[:EXAMPLES]], len(unknown))
        problems.append(f"{format_count(len(unknown), 'id')} of no {owner} of {version.dataset}{such}")
    if defective.any():
        messages.append(f"{format_count(int(defective.sum()), 'id')} in files that are left out")
    missing = np.flatnonzero(row < 0)
    if len(missing):
        such = format_examples(slices["slice_id" if table.of_patients else by].iloc[missing[:EXAMPLES]], len(missing))
        problems.append(f"{format_count(len(missing), 'slice')} of {len(slices):,} without a fold{such}")
    folds = np.where(row >= 0, table.folds[row], -1).astype(np.int16)
    empty = sorted(set(range(table.k)) - set(folds.tolist()))
    if empty and not problems:
        problems.append(f"no slice in fold {', '.join(str(fold + table.from_one) for fold in empty)}")
    raise_problems(
        [f"{path}: {problem}" for problem in problems],
        f"every slice of version {version.number} needs exactly one fold: complete the file, or take out what is not "
        "in the dataset",
    )
    return folds, messages


_WORDS = {"slice_id": "SOPInstanceUID", "stem": "file name", "file": "path", "patient": "PatientID"}

_Forms = Iterator[tuple[str, npt.NDArray[np.object_]]]


def _slice_forms(ids: npt.NDArray[np.object_], slices: pd.DataFrame) -> _Forms:
    """Yield what the ids may be: a column of the catalog, and the ids as they would stand in it."""
    yield "slice_id", ids
    yield "file", ids
    if slices["stem"].is_unique:
        yield "stem", ids
        stems = np.array([file_stem(str(i)) for i in ids], object)
        if len(set(stems)) == len(ids):
            yield "stem", stems


def _patient_forms(ids: npt.NDArray[np.object_], key: bytes | None) -> _Forms:
    """Yield what the ids may be: PatientIDs, or the hashes that ichx shows of them."""
    if key is not None:
        yield "patient", hash_ids(pd.Series(ids, dtype=object), key).to_numpy(object)
    yield "patient", ids


def _best(forms: _Forms, slices: pd.DataFrame) -> tuple[str, "pd.Index[str]", npt.NDArray[np.int64]]:
    """Return the form under which most slices have an id, the first of equals, and each slice's place among its ids.

    The place is -1 for none. Forms are not made any more once every slice has an id.
    """
    best: tuple[str, pd.Index[str], npt.NDArray[np.int64]] | None = None
    most = -1
    for by, ids in forms:
        index = pd.Index(ids)
        row = index.get_indexer(pd.Index(slices[by].to_numpy(object)))
        found = int((row >= 0).sum())
        if found > most:
            best, most = (by, index, row), found
        if found == len(slices):
            break
    assert best is not None
    return best


def _examples(leaks: Sequence[Leak]) -> list[str]:
    """Return the first leaks in words, two slices of each."""
    told = []
    for leak in leaks[:EXAMPLES]:
        slices = [f"{slice_id} in fold {fold}" for fold, slice_id in list(leak.examples.items())[:2]]
        told.append(f"{leak.patient} ({', '.join(slices)})")
    return told


def _add_version(
    project: "Project",
    version: DatasetVersion,
    folds: FoldDraft,
    slices: pd.DataFrame,
    assigned: npt.NDArray[np.int16],
) -> DatasetVersion:
    """Record `version` again as the next one, with `folds` too; its folder is a copy with their file."""
    owner = "slice_id" if folds.leaky else "patient"
    frame = pd.DataFrame({owner: slices[owner], "fold": assigned}).drop_duplicates()

    def write(into: Path) -> None:
        shutil.copytree(project.workspace.root / version.path, into, dirs_exist_ok=True)
        write_parquet(frame, into / folds_file(folds.name))

    folder = write_folder(project.workspace.datasets_dir / version.dataset / f"v{version.number + 1}", write)
    kept = {field.name: getattr(version, field.name) for field in fields(VersionDraft)}
    others = [FoldDraft(**{f.name: getattr(old, f.name) for f in fields(FoldDraft)}) for old in version.folds]
    kept["folds"] = (*(old for old in others if old.name != folds.name), folds)
    kept["path"] = folder.relative_to(project.workspace.root).as_posix()
    try:
        return project.store.add_version(VersionDraft(**kept))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
