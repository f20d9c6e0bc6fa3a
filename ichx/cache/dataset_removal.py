"""Removing a dataset: what ichx has made of it is named first, and deleted when that is asked for.

Not for the files that it was made from, which are the user's and stay where they are.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.cache.verify import find_caches, foreign_caches
from ichx.errors import IchxError
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class Belonging:
    """A part of a dataset in the workspace: what is at `path`, or only `files` there, of `nbytes` in all."""

    what: str
    path: Path
    nbytes: int
    files: tuple[Path, ...] = ()


def belongings(project: "Project", name: str) -> list[Belonging]:
    """Return what goes with the dataset `name`: its folder, its caches, and experiments' predictions of it.

    Nothing is changed. Raises `IchxError` for an unknown name and where something stands on the dataset.
    """
    project.store.check_unused(name)
    folders = {cache.folder for cache in find_caches(project.workspace.cache_dir, name, "")}
    folders |= set(foreign_caches(project.workspace.cache_dir, name))
    predicted: dict[int, list[Path]] = {}
    for prediction in project.store.predictions_of(name):
        predicted.setdefault(prediction.experiment, []).append(project.workspace.root / prediction.path)
    own = project.workspace.root / "datasets" / name
    found = [Belonging("catalog, folds", own, _size(own))]
    found += [Belonging("cache", folder, _size(folder)) for folder in sorted(folders)]
    for number, files in predicted.items():
        told, size = format_count(len(files), "prediction"), sum(map(_size, files))
        found.append(Belonging(told, project.workspace.experiment_dir(number), size, tuple(files)))
    return found


def remove_dataset(project: "Project", name: str) -> None:
    """Delete the dataset `name` for good, with its `belongings`; raises as they do, and for files that stay.

    The store forgets it first: what is left of an interrupted deletion takes space, and belongs to nothing.
    """
    doomed = belongings(project, name)
    project.store.delete_dataset(name)
    for path in (path for part in doomed for path in part.files or (part.path,)):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            problem = f"{name} is removed, but {path} could not be deleted: {error.strerror}"
            raise IchxError(problem, "delete it by hand") from error


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.lstat().st_size if path.exists() else 0
