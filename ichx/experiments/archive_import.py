"""Imports an experiment from a file that `archive_export` wrote, on another machine or in another workspace.

The file is not trusted: only members with known names and sizes are read and checked against the records, and after an
error nothing is left behind.
"""

import math
import os
import re
import secrets
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.exc import IntegrityError

from ichx import __version__
from ichx.datasets.dataset import load_version
from ichx.errors import (
    MAX_NAME,
    ConflictError,
    CorruptFileError,
    NotFoundError,
    NotReadyError,
    StorageError,
    UnsupportedError,
)
from ichx.evaluation.member_outputs import member_id
from ichx.evaluation.predictions import read_predictions
from ichx.evaluation.scorecard import update_scores
from ichx.experiment_files import WEIGHTS_FILE
from ichx.experiments.archive_export import FORMAT, INDEX, SUBSET_FORMAT
from ichx.experiments.folder_record import describe_folder
from ichx.experiments.gc import IMPORTING
from ichx.experiments.register import image_facts
from ichx.files import open_file, sha256_file
from ichx.recipe import Recipe, digest
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, ExperimentDraft, ImportDraft, Note, PredictionDraft, Run, Selection, TuningInfo
from ichx.text import escape, format_command, format_count, parse_json

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet, Store

INDEX_BYTES = 100_000_000
"""Longer indexes are refused."""
RATIO = 20
"""Archives that expand by more than this factor are refused: their members hardly compress."""
_MEMBER = re.compile(
    r"fold-\d{1,4}/([A-Za-z0-9._-]{1,200}\.(parquet|safetensors|log|diff)|inputs\.json|"
    r"checkpoint-\d{3}-\d{5}-\d{9}\.pt)|start\.json"
)
_EXPORTED = "Use a file that `ichx exp export` wrote."


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
    folder = project.workspace.experiments_dir / f"{IMPORTING}{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        with open_archive(file, "an experiment", _EXPORTED) as archive:
            index = _read_index(archive, file)
            existing = None if again else _existing(project, index)
            if existing is not None and reuse and existing.trashed is None:
                return Imported(existing.number, record_number(index["number"]), (), present=True)
            if existing is not None:
                raise _exists(existing, file)
            return _import(project, archive, index, folder, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, pa.ArrowException) as error:
        raise CorruptFileError(f"{file} is damaged: {error}.", "Export the experiment again.") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IntegrityError) as error:
        raise CorruptFileError(
            f"{INDEX} in {file} is invalid: {type(error).__name__} {str(error).splitlines()[0]}.",
            "Export the experiment again.",
        ) from error
    except OSError as error:
        raise StorageError(
            f"Cannot write to {project.workspace.experiments_dir}: {error.strerror}.",
            "Free some space or make it writable.",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import(
    project: "Project",
    archive: zipfile.ZipFile,
    index: Mapping[str, Any],
    folder: Path,
    file: Path,
) -> Imported:
    facts, was = index["experiment"], record_number(index["number"])
    recipe = from_toml(facts["recipe"], source=f"the recipe in {file}")
    if digest(recipe) != facts["recipe_digest"]:
        raise ValueError("the recipe does not have the recorded digest")
    project.registry.get(recipe.plugin)
    version, fold_set = pinned = pinned_version(project.store, index["dataset"])
    absent: Counter[str] = Counter()
    for member in archive.infolist():
        if member.filename != INDEX:
            extract_member(archive, member, folder)
    predictions = [
        (name, draft)
        for entry in index["predictions"]
        for name, draft in _prediction(project, entry, folder, version, fold_set, absent)
    ]
    left_out = [
        f"{format_count(count, 'prediction')} of {name}: no test set of this workspace has these slices"
        for name, count in absent.items()
    ]
    if not any(name.endswith(WEIGHTS_FILE) for name in archive.namelist()) and predictions:
        left_out.append("the archive has no weights: `ichx run` would train the folds again")
    places = [(draft.role, draft.fold, draft.version_id, draft.view) for _, draft in predictions]
    if len(set(places)) < len(places):
        raise ValueError("it has a prediction twice")
    origin = {"number": was, "workspace": _workspace(index)}
    origin |= {"id": str(index["id"])[:64]} if "id" in index else {}
    members = find_members(project.store, index)
    imported = import_draft(index, recipe, pinned, origin, [draft for _, draft in predictions], members)
    made = project.store.import_experiment(
        imported, place=lambda number: folder.rename(project.workspace.experiment_dir(number)), root="experiments"
    )
    update_scores(project, made.number)
    describe_folder(project, project.store.experiment(made.number))
    return Imported(made.number, was, tuple(left_out))


def find_members(store: "Store", index: Mapping[str, Any]) -> list[int]:
    """Return the numbers that the members of the experiment of `index` have in this store.

    Raises:
        NotReadyError: One is missing.
    """
    wanted = [
        (str(facts["id"]), record_number(facts["number"]), _name(facts["name"])) for facts in index.get("members", ())
    ]
    if not wanted:
        return []
    summaries = store.experiments(Selection(kind=None), limit=None)
    known = {member_id(e): e.number for e in (store.experiment(s.number) for s in summaries)}
    missing = [f"{number} ({name})" for id, number, name in wanted if id not in known]
    if missing:
        raise NotReadyError(
            f"The experiment reads experiments that are not in this workspace: {', '.join(missing)}.",
            "Import these first; `ichx exp export NUMBER FILE --weights` writes them in the other workspace.",
        )
    return [known[id] for id, _, _ in wanted]


def _existing(project: "Project", index: Mapping[str, Any]) -> "Experiment | None":
    """Return the experiment of `index` if this workspace has it, imported or as the original."""
    facts, pinned = index["experiment"], index["dataset"]
    digests = (facts["recipe_digest"], pinned["label_digest"], pinned["fold_digest"])
    place = (index["number"], _workspace(index))
    for summary in project.store.experiments(Selection(kind=None, trashed=None), limit=None):
        e = project.store.experiment(summary.number)
        if (e.recipe_digest, e.label_digest, e.fold_digest) != digests:
            continue
        origin = e.origin or {"id": e.id, "number": e.number, "workspace": project.workspace.root.name}
        if index["id"] == origin["id"] if "id" in index and "id" in origin else place == _place(origin):
            return e
    return None


def _exists(e: "Experiment", file: Path) -> ConflictError:
    what = "is" if e.origin is None else "was imported before, as"
    return ConflictError(
        f"The experiment in {file} {what} experiment {e.number} of this workspace{_in_trash(e)}.",
        f"{format_command('ichx exp import', file, '--again')} imports a copy under a new number.",
    )


def _place(origin: Mapping[str, Any]) -> tuple[object, object]:
    return origin["number"], origin["workspace"]


def _in_trash(experiment: "Experiment") -> str:
    return "" if experiment.trashed is None else ", which is in the trash"


def import_draft(
    index: Mapping[str, Any],
    recipe: Recipe,
    pinned: "tuple[DatasetVersion, FoldSet]",
    origin: Mapping[str, Any] | None,
    predictions: Sequence[PredictionDraft],
    members: Sequence[int] = (),
) -> ImportDraft:
    """Return the draft of the experiment that `index` describes. Raises `ValueError` and the like for invalid values.

    Args:
        index: Contents of `experiment.json`.
        recipe: Its recipe.
        pinned: The dataset version and folds to pin it to, see `pinned_version`.
        origin: Its number and workspace before an import.
        predictions: Those of its predictions whose files are there.
        members: Numbers of its members, see `find_members`.
    """
    facts, (version, fold_set) = index["experiment"], pinned
    size, window_kind = image_facts(recipe)
    return ImportDraft(
        experiment=ExperimentDraft(
            name=_name(facts["name"]),
            plugin=recipe.plugin,
            size=size,
            window_kind=window_kind,
            recipe=str(facts["recipe"]),
            recipe_digest=str(facts["recipe_digest"]),
            version_id=version.id,
            label_digest=version.label_digest or "",
            fold_set_id=fold_set.id,
            fold_digest=fold_set.digest,
            epochs=0 if facts.get("external") else recipe.epochs,
            kind="trial" if facts["kind"] == "trial" else "experiment",
            selected=bool(facts["selected"]),
            origin=origin,
            tuned=_tuned(facts.get("tuned")),
            subset=_share(facts.get("subset", 1.0)),
            external=bool(facts.get("external")),
            members=tuple(members),
        ),
        runs=tuple(_run(entry, fold_set.k) for entry in index["runs"]),
        history={fold: _history(index["history"].get(str(fold), [])) for fold in range(fold_set.k)},
        predictions=tuple(predictions),
        tags=tuple(map(_name, index["tags"])),
        notes=tuple(
            Note(id=0, experiment=0, created=parse_date(note["created"]), text=str(note["text"]))
            for note in index["notes"]
        ),
    )


def _name(text: object) -> str:
    """Return a name from the archive as the command line would accept it; ichx 0.1 allowed control characters.

    Raises `ValueError` if nothing is left of it.
    """
    name = escape(str(text), lines=True)[:MAX_NAME].strip()
    if not name:
        raise ValueError("it has an empty name")
    return name


def record_number(value: Any) -> int:
    """Return the number of an experiment or ensemble in an archive. Raises `ValueError` unless it is positive."""
    if type(value) is not int or value < 1:
        raise ValueError(f"invalid number {value!r}")
    return value


def _workspace(index: Mapping[str, Any]) -> str:
    """Return the name of the workspace from which an experiment was exported."""
    return escape(str(index["workspace"]), lines=True)[:MAX_NAME]


def _tuned(facts: Mapping[str, Any] | None) -> TuningInfo | None:
    """Return the trial that the experiment is, if any. Raises `ValueError` and the like for invalid values."""
    if facts is None:
        return None
    if not all(isinstance(value, int | float | str) for value in facts["values"].values()):
        raise ValueError("a trial has values that are neither numbers nor texts")
    return TuningInfo(
        study=_name(facts["study"]),
        trial=int(facts["trial"]),
        fold=int(facts["fold"]),
        values={str(name)[:200]: value for name, value in facts["values"].items()},
        subset=_share(facts["subset"]),
        length=_share(facts["length"]),
        score=None if facts["score"] is None else float(facts["score"]),
    )


def _share(value: Any) -> float:
    """Return `value` as a share of patients or epochs. Raises `ValueError` and the like if it is not in (0, 1]."""
    share = float(value)
    if not 0 < share <= 1:
        raise ValueError(f"invalid share of patients or epochs: {share:g}")
    return share


def open_archive(file: Path, what: str, remedy: str) -> zipfile.ZipFile:
    """Open `file`, an export of `what`.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: It is no zip, or cannot be read.
    """
    try:
        open_file(file).close()  # a pipe would be waited for
        return zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {file}.", remedy) from error
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptFileError(f"{file} is not an export of {what}: {error}.", remedy) from error


def _read_index(archive: zipfile.ZipFile, file: Path) -> Mapping[str, Any]:
    """Return `experiment.json` after checking the name and size of every member."""
    problem = None
    names = archive.namelist()
    total = sum(member.file_size for member in archive.infolist())
    if INDEX not in names:
        problem = f"it has no {INDEX}"
    elif len(names) != len(set(names)):
        problem = "it has a member twice"
    elif unexpected := [name for name in names if name != INDEX and not _MEMBER.fullmatch(name)]:
        problem = f"it has an unexpected member {unexpected[0]!r}"
    elif archive.getinfo(INDEX).file_size > INDEX_BYTES or total > RATIO * file.stat().st_size + INDEX_BYTES:
        problem = f"it would take {total:,} bytes, far more than its size of {file.stat().st_size:,}"
    if problem:
        raise CorruptFileError(f"{file} is refused: {problem}.", _EXPORTED)
    with archive.open(INDEX) as handle:
        index: Mapping[str, Any] = parse_json(handle.read(INDEX_BYTES + 1))
    if index["format"] not in (FORMAT, SUBSET_FORMAT):
        raise UnsupportedError(
            f"{file} has format {index['format']}, which ichx {__version__} does not read.",
            f"Use ichx {index['ichx']}.",
        )
    return index


def extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write a member below `folder`, at most the number of bytes that it declares."""
    target = folder / member.filename
    target.parent.mkdir(exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as handle:
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile(f"{member.filename} is longer than it declares")
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())  # before the store has a record of it


def pinned_version(store: "Store", pinned: Mapping[str, Any]) -> "tuple[DatasetVersion, FoldSet]":
    """Return the dataset version and folds of this workspace with the same slices, labels and assignment."""
    same_labels = None
    wanted = (pinned["name"], pinned["version"])
    for dataset in store.datasets():
        numbers = store.version_numbers(dataset.name)
        for number in sorted(numbers, key=lambda n: ((dataset.name, n) != wanted, -n)):
            version = store.version(dataset.name, number)
            if version.label_digest != pinned["label_digest"]:
                continue
            same_labels = version
            for fold_set in version.folds:
                if fold_set.digest == pinned["fold_digest"]:
                    return version, fold_set
    described = (
        f"{pinned['name']} ({format_count(int(pinned['slices']), 'slice')}, labels {str(pinned['label_digest'])[:12]})"
    )
    if same_labels is None:
        raise NotReadyError(
            f"The experiment was trained on the dataset {described}, which is not in this workspace.",
            f"Add it first: `ichx data add {pinned['name']} PATH --labels CSV`.",
        )
    raise NotReadyError(
        f"{same_labels.dataset} has the slices and labels of the experiment, but not its {pinned['folds']} folds "
        f"{pinned['fold_set']!r} (digest {str(pinned['fold_digest'])[:12]}).",
        f"Import them first: `ichx data folds {same_labels.dataset} --import FILE`.",
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
    if role not in ("oof", "test") or view not in ("identity", "hflip") or not 0 <= int(entry["fold"]) < fold_set.k:
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
        score=None if entry["score"] is None else _finite(entry["score"]),
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


def _run(entry: Mapping[str, Any], folds: int) -> Run:
    fold, attempt = int(entry["fold"]), int(entry["attempt"])
    if not 0 <= fold < folds:
        raise ValueError(f"it has a run of fold {fold}")
    return Run(
        id=0,
        experiment=0,
        fold=fold,
        attempt=attempt,
        state=str(entry["state"]),
        host=str(entry["host"])[:255],
        pid=int(entry["pid"]),
        started=parse_date(entry["started"]),
        heartbeat=parse_date(entry["heartbeat"]),
        ended=None if entry["ended"] is None else parse_date(entry["ended"]),
        stage=None if entry["stage"] is None else str(entry["stage"])[:200],
        epoch=None if entry["epoch"] is None else int(entry["epoch"]),
        epochs_done=int(entry["epochs_done"]),
        code_version=str(entry["code_version"]),
        device=str(entry["device"]),
        command=str(entry["command"]),
        libraries={str(k): str(v) for k, v in dict(entry["libraries"]).items()},
        provenance=None if entry["provenance"] is None else dict(entry["provenance"]),
        error=None if entry["error"] is None else str(entry["error"]),
    )


def _history(entries: Iterable[Mapping[str, Any]]) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(
            stage=str(entry["stage"])[:200],
            stage_index=int(entry["stage_index"]),
            epoch=int(entry["epoch"]),
            values={str(k)[:200]: float("nan") if v is None else float(v) for k, v in dict(entry["values"]).items()},
        )
        for entry in entries
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it has a score {number}")
    return number


def parse_date(text: str) -> datetime:
    """Return a date of `experiment.json`."""
    return datetime.fromisoformat(text).astimezone()
