"""The record in an experiment's folder, `experiment.json`: whose folder it is, and everything to register it again.

The folders of dataset versions have such a record, too: `version.json`. `rebuild` reads both.
"""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import ConflictError, CorruptFileError, StorageError
from ichx.experiments.archive_export import describe
from ichx.files import sha256_file, write_error, write_text
from ichx.locks import file_lock
from ichx.store import Selection
from ichx.store.runs import LIVE_STATES
from ichx.text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment

VERSION_RECORD: Final = "version.json"
LOCK_FILE: Final = "db/records.lock"


def check_folder(project: "Project", experiment: "Experiment") -> None:
    """Check that the folder of `experiment` belongs to it; call this before anything is written there.

    Raises:
        ConflictError: The folder contains another experiment.
        CorruptFileError: The record is damaged.
    """
    if problem := folder_problem(project, experiment):
        raise ConflictError(
            problem,
            f"Move that folder elsewhere, or use the store that it belongs to. `ichx exp clone {experiment.number}` "
            "registers the recipe under a new number.",
        )


def folder_problem(project: "Project", experiment: "Experiment") -> str | None:
    """Return why the folder of `experiment` cannot belong to it; None if it does, or is empty.

    A folder of an older version has no record. It belongs to the experiment if the store knows its runs and, if there
    are any, its predictions.
    """
    files = project.workspace.experiment_files(experiment.number)
    record = read_record(files.record)
    if record is not None:
        if record.get("id") == experiment.id:
            return None
        name = str(record.get("experiment", {}).get("name"))
        return f"{files.folder} contains another experiment {record.get('number')}, {name}, of {record.get('created')}."
    if not files.has_training():
        return None
    if not project.store.runs(experiment.number):
        return f"{files.folder} contains a training, but experiment {experiment.number} has never run."
    for prediction in project.store.predictions(experiment.number, role="oof"):
        path = project.workspace.root / prediction.path
        if path.is_file() and sha256_file(path) != prediction.digest:
            return f"{files.folder} contains another experiment: {prediction.path} differs from its record."
    return None


def describe_folder(project: "Project", experiment: "Experiment") -> None:
    """Write the record of `experiment` and those of the dataset versions that it needs.

    Raises:
        StorageError: A record cannot be written.
    """
    lock = project.workspace.root / LOCK_FILE
    try:
        with file_lock(lock):  # folds that finish at the same time would overwrite a newer record with an older one
            _describe(project, experiment)
    except OSError as error:
        raise write_error(lock, "the lock of the records", error) from error


def _describe(project: "Project", experiment: "Experiment") -> None:
    number, root = experiment.number, project.workspace.root
    runs = [run for run in project.store.runs(number) if run.state not in LIVE_STATES]
    folder = project.workspace.experiment_dir(number)
    predictions = [
        p
        for p in project.store.predictions(number)
        if (root / p.path).is_file() and (root / p.path).is_relative_to(folder)
    ]
    record = describe(project, experiment, runs, predictions)
    origin = None if experiment.origin is None else dict(experiment.origin)
    record |= {"parent": experiment.parent, "archived": experiment.archived, "origin": origin}
    _write_changes(project.workspace.experiment_files(number).record, record)
    versions = {experiment.version_id} | {p.version_id for p in predictions}
    pinned = [project.store.version_by_id(version_id) for version_id in sorted(versions)]
    _describe_versions(project, [one for version in pinned for one in (version, *_parts(project, version))])


def _parts(project: "Project", version: "DatasetVersion") -> "list[DatasetVersion]":
    """Return the versions of which a mixture consists; nothing for other versions."""
    parts = version.summary.get("mixture", {}).get("parts", ())
    return [project.store.version(part["dataset"], part["number"]) for part in parts]


def describe_all(project: "Project") -> None:
    """Write the missing records of all folders, those of older versions. Folders that are read-only get none."""
    for summary in project.store.experiments(Selection(kind=None, trashed=None), limit=None):
        files = project.workspace.experiment_files(summary.number)
        if files.folder.is_dir() and not files.record.exists():
            _describe_own(project, summary.number)
    for dataset in project.store.datasets():
        for number in project.store.version_numbers(dataset.name):
            with contextlib.suppress(StorageError):
                _describe_versions(project, [project.store.version(dataset.name, number)])


def describe_again(project: "Project", numbers: "Iterable[int]") -> None:
    """Write the records of experiments again whose names, tags or notes have changed, if their folders have records."""
    for number in numbers:
        if project.workspace.experiment_files(number).record.exists():
            _describe_own(project, number)


def _describe_own(project: "Project", number: int) -> None:
    """Write the record of an experiment, unless its folder is read-only, contains another one, or is damaged."""
    experiment = project.store.experiment(number)
    with contextlib.suppress(StorageError, CorruptFileError):  # `ichx run` reports them
        if folder_problem(project, experiment) is None:
            describe_folder(project, experiment)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record; None if there is no such file.

    Raises:
        CorruptFileError: It is damaged.
        StorageError: It cannot be read.
    """
    remedy = "Move the file away; it is written again by the next run."
    try:
        found = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.", "Make the file readable.") from error
    except ValueError as error:
        raise CorruptFileError(f"{path} is damaged: {error}.", remedy) from error
    if not isinstance(found, dict):
        raise CorruptFileError(f"{path} is damaged: it is not a JSON object.", remedy)
    return found


def _describe_versions(project: "Project", versions: "Iterable[DatasetVersion]") -> None:
    for version in versions:
        path = project.workspace.root / version.path / VERSION_RECORD
        if not path.parent.is_dir():
            continue
        record = {name: value for name, value in asdict(version).items() if name != "id"}
        record["created"] = version.created.isoformat()
        record["folds"] = [{k: v for k, v in asdict(folds).items() if k != "id"} for folds in version.folds]
        _write_changes(path, record)


def _write_changes(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1) + "\n"
    if read_record(path) != parse_json(text):
        write_text(path, text, "the record of the folder")
