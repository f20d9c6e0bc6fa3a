"""Folders of datasets and their versions that the store does not know, e.g. as `ichx data add` was killed."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.experiments.garbage import FRESH_SECONDS, Garbage, is_idle
from ichx.files import size_of

if TYPE_CHECKING:
    from ichx.project import Project


def orphaned_datasets(project: "Project") -> Iterator[Garbage]:
    """Yield orphaned folders; those with a catalog are moved to the trash."""
    folders = _folders(project.workspace.datasets_dir)
    versions = {folder: _folders(folder) for folder in folders}
    names = {dataset.name for dataset in project.store.datasets()}  # read after the folders, see `_orphans` in `gc`
    for folder in folders:
        if folder.name not in names:
            if is_idle(folder):  # one that is being added is not in the store yet
                reason = "no dataset has this name; moved to trash/ for 30 days"
                yield Garbage("orphaned folder", folder, size_of(folder), reason, move=True)
            continue
        known = {
            project.workspace.root / project.store.version(folder.name, number).path
            for number in project.store.version_numbers(folder.name)
        }
        for path in versions[folder]:
            if path in known or not is_idle(path) or time.time() - path.stat().st_mtime < FRESH_SECONDS:
                continue
            if path.name.startswith("."):
                yield Garbage("orphaned folder", path, size_of(path), "adding a version was interrupted")
            else:
                reason = "no version has this folder; moved to trash/ for 30 days"
                yield Garbage("orphaned folder", path, size_of(path), reason, move=True)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
