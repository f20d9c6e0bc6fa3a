"""Exports an experiment as one file: recipe, runs, history, predictions, tags, notes; weights and checkpoints.

The file is a zip of `experiment.json` and the files of the folds, without absolute paths. `archive_import` reads it.
The members of a sequence experiment are exported and imported separately, before it.
"""

import json
import re
import shutil
import time
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx import __version__
from ichx.errors import ChangedDataError, ConflictError, StorageError
from ichx.evaluation.member_outputs import member_id
from ichx.experiment_files import RECORD_FILE
from ichx.experiments.pinned_parts import describe_parts_of
from ichx.files import atomic_write, check_suffix, check_writable, open_file
from ichx.store import require_network
from ichx.store.runs import LIVE_STATES
from ichx.training.checkpoint_files import checkpoints as checkpoint_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ichx.project import Project
    from ichx.store import Experiment, Prediction, Run

FORMAT, SUBSET_FORMAT = 1, 2
"""A quick look has the second: ichx 0.1 would take its score for that of all patients."""
INDEX = RECORD_FILE
WRITE_REMEDY = "Choose a writable folder with enough space."
PARTS = ".ichx-export-"
"""Prefix of the folder of an archive's members while it is written."""
_DRAFT = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp\.zip")
_ABANDONED_SECONDS = 3600
"""Age from which files of an unfinished export were left by a process that was killed."""
_PATH = re.compile(r"""(?<![\w.])(?:/|~/)(?:[^\s/'"]+/)+""")
_FACTS = (
    "name",
    "plugin",
    "size",
    "window_kind",
    "recipe",
    "recipe_digest",
    "epochs",
    "selected",
    "kind",
    "tuned",
    "subset",
    "external",
)


@dataclass(frozen=True)
class ExportedArchive:
    """An archive that was written: `file` of `nbytes`, containing `files` files of the experiment."""

    file: Path
    nbytes: int
    files: int


def archive_experiment(
    project: "Project", number: int, target: Path, *, weights: bool = False, checkpoints: bool = False
) -> ExportedArchive:
    """Write experiment `number` to the new file `target`, with or without its weights and checkpoints.

    Raises:
        InvalidInputError: `target` has the suffix of another format.
        ConflictError: `target` exists, or a fold is running.
        ChangedDataError: A recorded file is gone.
        StorageError: A file cannot be read, or `target` cannot be written.
    """
    check_suffix(target, "an archive", (".zip",))
    experiment = project.store.experiment(number)
    require_network(experiment, "export it")
    if target.exists():
        raise ConflictError(f"{target} exists already.", "Choose another file name.")
    check_writable(target, "the archive", remedy=WRITE_REMEDY)
    remove_old_drafts(target.parent)
    own = project.workspace.experiment_files(number)
    folder = own.folder
    index, files = _index(project, experiment)
    paths = [own.start, own.thresholds, own.recalibrations]
    for fold in map(own.fold, range(experiment.folds)):
        paths += [fold.log, fold.code_diff, fold.inputs, *([fold.weights] if weights else [])]
        paths += checkpoint_files(fold.folder) if checkpoints else []
    names = [path.relative_to(folder).as_posix() for path in paths if path.exists()]
    with (
        atomic_write(target, "the archive", remedy=WRITE_REMEDY) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive,
    ):
        archive.writestr(INDEX, json.dumps(index, indent=1))
        for name in dict.fromkeys([*files, *names]):
            _check_readable(folder / name)
            if name.endswith((".log", ".json")):
                # a killed run may have written half a character
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
                archive.writestr(name, _without_paths(text))
            else:
                archive.write(folder / name, name, zipfile.ZIP_STORED)
    return ExportedArchive(target, target.stat().st_size, len(files) + len(names))


def remove_old_drafts(folder: Path) -> None:
    """Remove what exports into `folder` that were killed more than an hour ago have left."""
    oldest = time.time() - _ABANDONED_SECONDS
    for path in folder.iterdir() if folder.is_dir() else ():
        if _DRAFT.fullmatch(path.name) and path.lstat().st_mtime < oldest:
            path.unlink(missing_ok=True)
        elif path.name.startswith(PARTS) and all(one.lstat().st_mtime < oldest for one in (path, *path.iterdir())):
            shutil.rmtree(path, ignore_errors=True)


def _check_readable(path: Path) -> None:
    try:
        open_file(path).close()
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.", "Restore the file or make it readable.") from error


def _index(project: "Project", experiment: "Experiment") -> tuple[dict[str, Any], list[str]]:
    """Return the contents of `experiment.json`, and the prediction files that it lists, relative to the folder."""
    number = experiment.number
    predictions = []
    for p in project.store.predictions(number):
        if p.role not in ("oof", "test"):
            continue  # of another dataset, which the importing workspace may lack
        if not (project.workspace.root / p.path).is_file():
            raise ChangedDataError(f"{p.path} is gone.", f"`ichx run {number}` creates it again.")
        predictions.append(p)
    runs = project.store.runs(number)
    for run in runs:
        if run.state in LIVE_STATES:
            raise ConflictError(
                f"Process {run.pid} on {run.host} is running fold {run.fold} of experiment {number}.",
                "Export the experiment when that run has ended.",
            )
    index = describe(project, experiment, runs, predictions)
    return index, [entry["file"] for entry in index["predictions"]]


def describe(
    project: "Project", experiment: "Experiment", runs: "Sequence[Run]", predictions: "Sequence[Prediction]"
) -> dict[str, Any]:
    """Return everything recorded about an experiment as JSON values, without absolute paths.

    Args:
        project: The open project.
        experiment: The experiment.
        runs: Its runs to include.
        predictions: Its predictions to include; their files are in its folder.
    """
    number, folder = experiment.number, project.workspace.experiment_dir(experiment.number)
    version = project.store.version_by_id(experiment.version_id)
    versions = {p.version_id: project.store.version_by_id(p.version_id) for p in predictions}
    facts = asdict(experiment)
    index = {
        "format": FORMAT if experiment.subset == 1 or experiment.tuned is not None else SUBSET_FORMAT,
        "ichx": __version__,
        "id": experiment.id,
        "number": number,
        "created": experiment.created,
        "workspace": project.workspace.root.name,
        "experiment": {name: facts[name] for name in _FACTS},
        "dataset": {
            "name": experiment.dataset,
            "version": experiment.dataset_version,
            "slices": version.slices,
            "label_digest": experiment.label_digest,
            "folds": experiment.folds,
            "fold_set": experiment.fold_set,
            "fold_digest": experiment.fold_digest,
        },
        "runs": [
            {name: value for name, value in asdict(run).items() if name not in ("id", "experiment", "job")}
            | {"command": _without_paths(run.command), "error": _without_paths(run.error or "") or None}
            for run in runs
        ],
        "history": {
            str(fold): [asdict(record) for record in project.store.history(number, fold)]
            for fold in range(experiment.folds)
        },
        "predictions": [
            {
                "fold": p.fold,
                "role": p.role,
                "view": p.view,
                "file": (project.workspace.root / p.path).relative_to(folder).as_posix(),
                "slices": p.slices,
                "digest": p.digest,
                "score": p.score,
                "dataset": versions[p.version_id].dataset,
                "version": versions[p.version_id].number,
            }
            for p in predictions
        ],
        "members": [member_facts(project.store.experiment(number)) for number in experiment.members],
        "tags": list(experiment.tags),
        "notes": [{"created": note.created, "text": note.text} for note in project.store.notes(number)],
    }
    if not experiment.members:
        del index["members"]
    plain: dict[str, Any] = json.loads(json.dumps(index, default=_plain))
    if parts := describe_parts_of(project.store, version):
        plain["dataset"]["parts"] = parts
    return plain


def member_facts(member: "Experiment") -> dict[str, Any]:
    """Return by what a member of a sequence experiment is found in another workspace."""
    return {"id": member_id(member), "number": member.number, "name": member.name}


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot write a {type(value).__name__}")


def _without_paths(text: str) -> str:
    """Return `text` with absolute paths reduced to their last part."""
    return _PATH.sub("", text)
