"""Reads an experiment from a file that `exporting` wrote, on another machine or in another workspace.

The file is not trusted: only members with known names and sizes are read, what is recorded is checked against them, and
nothing is left behind when something is wrong.
"""

import hashlib
import json
import math
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.exc import IntegrityError

from ichx import __version__
from ichx.datasets.dataset import load_version
from ichx.errors import IchxError
from ichx.evaluation.pooled import update_scores
from ichx.evaluation.predictions import read_predictions
from ichx.experiment_files import WEIGHTS_FILE
from ichx.experiments.archive_export import FORMAT, INDEX
from ichx.experiments.gc import IMPORTING
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, ExperimentDraft, ImportDraft, Note, PredictionDraft, Run, TuningInfo
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, FoldSet, Store

INDEX_BYTES = 100_000_000
"""An index longer than this is none."""
RATIO = 20
"""An archive that holds more than this many times its own bytes is a bomb: its members hardly compress."""
_MEMBER = re.compile(r"fold-\d{1,4}/[A-Za-z0-9._-]{1,200}\.(parquet|safetensors|log|diff)|start\.json")
_EXPORTED = "name a file that `ichx exp export` wrote"


@dataclass(frozen=True)
class Imported:
    """What was read: the experiment's new number, the one that it had, and what was left out, a line each."""

    number: int
    was: int
    left_out: tuple[str, ...]


def import_experiment(project: "Project", file: Path) -> Imported:
    """Register the experiment in `file` under a new number, on the dataset here that has its labels and folds.

    Raises `IchxError`, leaving nothing behind, for what is no such archive, for a damaged or hostile one, where no
    dataset here is the one that it was made on, and for a plugin that is not installed.
    """
    folder = project.workspace.experiments_dir / f"{IMPORTING}{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        with _opened(file) as archive:
            index = _read_index(archive, file)
            return _import(project, archive, index, folder, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, pa.ArrowException) as error:
        raise IchxError(f"{file} is damaged: {error}", "export the experiment again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IntegrityError) as error:
        raise IchxError(
            f"the {INDEX} in {file} is not one of ichx's: {type(error).__name__} {str(error).splitlines()[0]}",
            "export the experiment again",
        ) from error
    except OSError as error:
        raise IchxError(
            f"cannot write to {project.workspace.experiments_dir}: {error.strerror}",
            "free some space or make it writable",
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
    given = index["experiment"]
    recipe = from_toml(given["recipe"], source=f"the recipe in {file}")
    if digest(recipe) != given["recipe_digest"]:
        raise ValueError("its recipe does not have the digest that was recorded")
    project.registry.get(recipe.plugin)
    version, fold_set = _pinned(project.store, index["dataset"])
    left_out: list[str] = []
    for member in archive.infolist():
        if member.filename != INDEX:
            _extract(archive, member, folder)
    predictions = [
        (name, draft)
        for entry in index["predictions"]
        for name, draft in _prediction(project, entry, folder, version, fold_set, left_out)
    ]
    if not any(name.endswith(WEIGHTS_FILE) for name in archive.namelist()) and predictions:
        left_out.append("it comes without weights: `ichx run` would train its folds again")
    runs = tuple(_run(entry, fold_set.k) for entry in index["runs"])
    places = [(draft.role, draft.fold, draft.version_id, draft.view) for _, draft in predictions]
    if len(set(places)) < len(places):
        raise ValueError("it has a prediction twice")
    imported = ImportDraft(
        experiment=ExperimentDraft(
            name=str(given["name"])[:200],
            plugin=recipe.plugin,
            size=recipe.input.size,
            window_kind=recipe.input.window_kind,
            recipe=str(given["recipe"]),
            recipe_digest=str(given["recipe_digest"]),
            version_id=version.id,
            label_digest=version.label_digest or "",
            fold_set_id=fold_set.id,
            fold_digest=fold_set.digest,
            epochs=recipe.epochs,
            kind="trial" if given["kind"] == "trial" else "experiment",
            selected=bool(given["selected"]),
            origin={"number": int(index["number"]), "workspace": str(index["workspace"])[:200]},
            tuned=_tuned(given.get("tuned")),
        ),
        runs=runs,
        history={fold: _history(index["history"].get(str(fold), [])) for fold in range(fold_set.k)},
        predictions=tuple(draft for _, draft in predictions),
        tags=tuple(str(tag)[:200] for tag in index["tags"]),
        notes=tuple(
            Note(id=0, experiment=0, created=_date(note["created"]), text=str(note["text"])) for note in index["notes"]
        ),
    )
    made = project.store.import_experiment(
        imported, place=lambda number: folder.rename(project.workspace.experiment_dir(number)), root="experiments"
    )
    update_scores(project, made.number)
    return Imported(made.number, int(index["number"]), tuple(left_out))


def _tuned(told: Mapping[str, Any] | None) -> TuningInfo | None:
    """Return what an archive says of a trial; raises `ValueError` and the like for what no trial has."""
    if told is None:
        return None
    if not all(isinstance(value, int | float | str) for value in told["values"].values()):
        raise ValueError("a trial's values are numbers and texts")
    subset, length = float(told["subset"]), float(told["length"])
    if not (0 < subset <= 1 and 0 < length <= 1):
        raise ValueError("a trial has no such share of the patients or of the epochs")
    return TuningInfo(
        study=str(told["study"])[:200],
        trial=int(told["trial"]),
        fold=int(told["fold"]),
        values={str(name)[:200]: value for name, value in told["values"].items()},
        subset=subset,
        length=length,
        score=None if told["score"] is None else float(told["score"]),
    )


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise IchxError(f"there is no file {file}", _EXPORTED) from error
    except (zipfile.BadZipFile, OSError) as error:
        raise IchxError(
            f"{file} is no archive of an experiment: {error}", "name a file that `ichx exp export` wrote"
        ) from error


def _read_index(archive: zipfile.ZipFile, file: Path) -> Mapping[str, Any]:
    """Return `experiment.json`, after every member's name and size was looked at."""
    problem = None
    names = archive.namelist()
    total = sum(member.file_size for member in archive.infolist())
    if INDEX not in names:
        problem = f"it has no {INDEX}"
    elif len(names) != len(set(names)):
        problem = "it has a member twice"
    elif strange := [name for name in names if name != INDEX and not _MEMBER.fullmatch(name)]:
        problem = f"it has a member {strange[0]!r}, which no experiment has"
    elif archive.getinfo(INDEX).file_size > INDEX_BYTES or total > RATIO * file.stat().st_size + INDEX_BYTES:
        problem = f"it would take {total:,} bytes, far more than its own {file.stat().st_size:,}"
    if problem:
        raise IchxError(f"{file} is refused: {problem}", _EXPORTED)
    with archive.open(INDEX) as handle:
        index: Mapping[str, Any] = json.loads(handle.read(INDEX_BYTES + 1))
    if index["format"] != FORMAT:
        raise IchxError(
            f"{file} has format {index['format']}, which this ichx ({__version__}) does not read",
            f"use ichx {index['ichx']}",
        )
    return index


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Write a member below `folder`, never more of it than it claims to have."""
    target = folder / member.filename
    target.parent.mkdir(exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as handle:
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile(f"{member.filename} is longer than it claims to be")
            handle.write(block)


def _pinned(store: "Store", wanted: Mapping[str, Any]) -> "tuple[DatasetVersion, FoldSet]":
    """Return the dataset version and folds here that have the same slices and labels, and the same assignment."""
    same_labels = None
    for dataset in store.datasets():
        for number in range(dataset.versions, 0, -1):
            version = store.version(dataset.name, number)
            if version.label_digest != wanted["label_digest"]:
                continue
            same_labels = version
            for fold_set in version.folds:
                if fold_set.digest == wanted["fold_digest"]:
                    return version, fold_set
    told = (
        f"{wanted['name']} ({format_count(int(wanted['slices']), 'slice')}, labels {str(wanted['label_digest'])[:12]})"
    )
    if same_labels is None:
        raise IchxError(
            f"it was made on the dataset {told}, which is not in this workspace",
            f"add it first: `ichx data add {wanted['name']} PATH --labels CSV`",
        )
    raise IchxError(
        f"{same_labels.dataset} has its slices and labels, but not its {wanted['folds']} folds {wanted['fold_set']!r} "
        f"(digest {str(wanted['fold_digest'])[:12]})",
        f"import them first: `ichx data folds {same_labels.dataset} --import FILE`",
    )


def _prediction(
    project: "Project",
    entry: Mapping[str, Any],
    folder: Path,
    version: "DatasetVersion",
    fold_set: "FoldSet",
    left_out: list[str],
) -> list[tuple[str, PredictionDraft]]:
    """Return the draft of a prediction whose file is what was recorded; nothing for a test set that is not here."""
    name, role, view = str(entry["file"]), str(entry["role"]), str(entry["view"])
    path = folder / name
    if not _MEMBER.fullmatch(name) or not path.is_file():
        raise ValueError(f"it speaks of {name!r}, which is not in it")
    if role not in ("oof", "test") or view not in ("identity", "hflip") or not 0 <= int(entry["fold"]) < fold_set.k:
        raise ValueError(f"{name} is no prediction of a fold in a view")
    with path.open("rb") as handle:
        if hashlib.file_digest(handle, "sha256").hexdigest() != entry["digest"]:
            raise ValueError(f"{name} is not the file that was recorded")
    with pq.ParquetFile(path) as content:
        rows = content.metadata.num_rows
    tests = project.store.test_sets(version.dataset) if role == "test" else []
    most = version.slices if role == "oof" else max((test.slices for test in tests), default=0)
    if rows != int(entry["slices"]) or (role == "oof" and rows > most):
        raise ValueError(f"{name} has {rows:,} rows, not those of its slices")
    if rows > most:  # looked at before it is read: a small file may hold any number of equal rows
        return _without(path, entry, left_out)
    ids = read_predictions(path).slice_ids
    target: DatasetVersion | None = version
    if role == "test":
        target = _test_set(project, version.dataset, set(ids))
        if target is None:
            return _without(path, entry, left_out)
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


def _without(path: Path, entry: Mapping[str, Any], left_out: list[str]) -> list[tuple[str, PredictionDraft]]:
    """Leave out the prediction of a test set that is not here."""
    left_out.append(f"{entry['file']}: no test set here has the slices of {entry['dataset']}")
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
        started=_date(entry["started"]),
        heartbeat=_date(entry["heartbeat"]),
        ended=None if entry["ended"] is None else _date(entry["ended"]),
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


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()
