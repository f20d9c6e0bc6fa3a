"""An experiment as one file: recipe, runs, history, predictions, tags and notes, with or without weights.

The file is a zip of `experiment.json` and the folds' own files, without absolute paths. See `importing` for reading.
"""

import json
import os
import re
import secrets
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx import __version__
from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

FORMAT = 1
INDEX = "experiment.json"
_PATH = re.compile(r"""(?<![\w.])(?:/|~/)(?:[^\s/'"]+/)+""")
_FACTS = ("name", "plugin", "size", "window_kind", "recipe", "recipe_digest", "epochs", "selected", "kind", "tuned")


@dataclass(frozen=True)
class Exported:
    """What was written: `file` of `nbytes`, with `files` of the experiment in it."""

    file: Path
    nbytes: int
    files: int


def export_experiment(project: "Project", number: int, target: Path, *, weights: bool = False) -> Exported:
    """Write experiment `number` to the new file `target`, its weights only if asked for.

    Raises `IchxError` where `target` is there already or cannot be written, and where a recorded file is gone.
    """
    experiment = project.store.experiment(number)
    if target.exists():
        raise IchxError(f"{target} is there already", "name another file")
    own = project.workspace.experiment_files(number)
    folder = own.folder
    index, files = _index(project, experiment)
    paths = [own.start]
    for fold in map(own.fold, range(experiment.folds)):
        paths += [fold.log, fold.code_diff, *([fold.weights] if weights else [])]
    names = [path.relative_to(folder).as_posix() for path in paths if path.exists()]
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(INDEX, json.dumps(index, indent=1))
            for name in dict.fromkeys([*files, *names]):
                if name.endswith((".log", ".json")):
                    archive.writestr(name, _scrubbed((folder / name).read_text(encoding="utf-8")))
                else:
                    archive.write(folder / name, name, zipfile.ZIP_STORED)
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        draft.replace(target)
    except OSError as error:
        raise IchxError(
            f"cannot write {target}: {error.strerror or error}", "choose a writable place with enough space"
        ) from error
    finally:
        if draft.exists():
            draft.unlink()
    return Exported(target, target.stat().st_size, len(files) + len(names))


def _index(project: "Project", experiment: "Experiment") -> tuple[dict[str, Any], list[str]]:
    """Return what `experiment.json` says, and the prediction files, in the experiment's folder, that it speaks of."""
    number, folder = experiment.number, project.workspace.experiment_dir(experiment.number)
    version = project.store.version_by_id(experiment.version_id)
    predictions, files = [], []
    for p in project.store.predictions(number):
        if p.role not in ("oof", "test"):
            continue  # of another dataset, which the reader need not have
        path = project.workspace.root / p.path
        if not path.is_file():
            raise IchxError(f"{p.path} is gone", f"`ichx run {number}` makes it again")
        name = path.relative_to(folder).as_posix()
        files.append(name)
        predictions.append(
            {
                "fold": p.fold,
                "role": p.role,
                "view": p.view,
                "file": name,
                "slices": p.slices,
                "digest": p.digest,
                "score": p.score,
                "dataset": project.store.version_by_id(p.version_id).dataset,
            }
        )
    runs = []
    for run in project.store.runs(number):
        if run.state in ("running", "stalled"):
            raise IchxError(
                f"fold {run.fold} of experiment {number} is being run by process {run.pid} on {run.host}",
                "export it when that run has ended",
            )
        values = {name: value for name, value in asdict(run).items() if name not in ("id", "experiment")}
        runs.append(values | {"command": _scrubbed(run.command), "error": _scrubbed(run.error or "") or None})
    facts = asdict(experiment)
    index = {
        "format": FORMAT,
        "ichx": __version__,
        "number": number,
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
        "runs": runs,
        "history": {
            str(fold): [asdict(record) for record in project.store.history(number, fold)]
            for fold in range(experiment.folds)
        },
        "predictions": predictions,
        "tags": list(experiment.tags),
        "notes": [{"created": note.created, "text": note.text} for note in project.store.notes(number)],
    }
    return json.loads(json.dumps(index, default=_plain)), files


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot write a {type(value).__name__}")


def _scrubbed(text: str) -> str:
    """Return `text` with absolute paths cut down to their last part."""
    return _PATH.sub("", text)
