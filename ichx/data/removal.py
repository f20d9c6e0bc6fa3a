"""Removing a dataset: what ichx has made of it is named first, and deleted when that is asked for.

Not for the files that it was made from, which are the user's and stay where they are.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.data.cache_care import find_caches, foreign_caches
from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.store import Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Belonging:
    """A part of a dataset in the workspace: a file or folder at `path` of `nbytes` in all."""

    what: str
    path: Path
    nbytes: int


def belongings(workspace: "Workspace", store: "Store", name: str) -> list[Belonging]:
    """Return what goes with the dataset `name`: its folder, its caches, and experiments' predictions of it.

    Nothing is changed. Raises `IchxError` for an unknown name and where something stands on the dataset.
    """
    store.check_unused(name)
    folders = {cache.folder for cache in find_caches(workspace.cache_dir, name, "")}
    folders |= set(foreign_caches(workspace.cache_dir, name))
    predicted = [
        (f"prediction by experiment {p.experiment}", workspace.root / p.path) for p in store.predictions_of(name)
    ]
    parts = [
        ("catalog and folds", workspace.root / "datasets" / name),
        *(("cache", folder) for folder in sorted(folders)),
        *predicted,
    ]
    return [Belonging(what, path, _size(path)) for what, path in parts]


def remove_dataset(workspace: "Workspace", store: "Store", name: str) -> None:
    """Delete the dataset `name` for good, with its `belongings`; raises as they do, and for files that stay.

    The store forgets it first: what is left of an interrupted deletion takes space, and belongs to nothing.
    """
    doomed = belongings(workspace, store, name)
    store.delete_dataset(name)
    for part in doomed:
        try:
            if part.path.is_dir() and not part.path.is_symlink():
                shutil.rmtree(part.path)
            else:
                part.path.unlink(missing_ok=True)
        except OSError as error:
            raise IchxError(
                f"{name} is removed, but {part.path} could not be deleted: {error.strerror}", "delete it by hand"
            ) from error


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.lstat().st_size if path.exists() else 0
