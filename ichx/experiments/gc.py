"""Garbage collection: finds files that nothing needs, and deletes them on request.

Experiments in the trash, checkpoints of finished folds, orphaned folders, unused caches.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.cache.hu_cache import BUILD_FILE, CacheSpec, cache_key, read_manifest, slices_digest
from ichx.cache.requests import recipe_spec
from ichx.datasets.dataset import load_version
from ichx.errors import IchxError, StorageError
from ichx.recipe_text import from_toml
from ichx.store import Selection
from ichx.store.maintenance import CheckResult
from ichx.training.checkpoint_files import checkpoints

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Store

IMPORTING = ".import-"
"""Prefix of the folder into which an experiment is imported."""
DELETING = ".deleting"
"""Suffix of a folder whose deletion has begun."""
FRESH_SECONDS = 24 * 3600
"""Younger files are never garbage: another process may be writing them."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can be deleted; `experiment` is its number if it is an experiment in the trash."""

    kind: str
    path: Path
    nbytes: int
    reason: str
    experiment: int | None = None


def find_garbage(project: "Project") -> list[Garbage]:
    """Return everything that can be deleted, by kind. Changes nothing."""
    return [
        *_trashed(project),
        *_leftovers(project),
        *_orphans(project),
        *_caches(project),
    ]


def delete(store: "Store", garbage: Garbage) -> None:
    """Delete `garbage` permanently; the next call finishes an interrupted deletion.

    Raises:
        StorageError: A file cannot be removed.
    """
    try:
        if garbage.experiment is not None:
            store.purge(garbage.experiment)
        if garbage.path.is_dir() and not garbage.path.is_symlink():
            doomed = garbage.path
            if not doomed.name.endswith(DELETING):
                doomed = doomed.rename(doomed.with_name(doomed.name + DELETING))
            shutil.rmtree(doomed)
        else:
            garbage.path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot delete {garbage.path}: {error.strerror}.", "Make its folder writable, then run again."
        ) from error


def _trashed(project: "Project") -> Iterator[Garbage]:
    found = project.store.experiments(Selection(kind=None, trashed=True), limit=None)
    blends = project.store.ensembles_containing([e.number for e in found]) if found else {}
    for e in found:
        if e.number not in blends:
            folder = project.workspace.experiment_dir(e.number)
            yield Garbage("experiment in the trash", folder, size_of(folder), f"{e.number}: {e.name}", e.number)


def _leftovers(project: "Project") -> Iterator[Garbage]:
    """Find checkpoints of finished folds."""
    for e in project.store.experiments(Selection(kind=None), limit=None):
        if not e.folds_done:
            continue
        runs = project.store.runs(e.number)
        busy = {run.fold for run in runs if run.state in ("running", "stalled")}
        for fold in sorted({run.fold for run in runs if run.state == "done"} - busy):
            for path in checkpoints(project.workspace.experiment_files(e.number).fold(fold).folder):
                yield Garbage("old checkpoint", path, size_of(path), f"fold {fold} of experiment {e.number} is done")


def _orphans(project: "Project") -> Iterator[Garbage]:
    """Find folders of experiments and datasets that the store does not know."""
    folder = project.workspace.experiments_dir
    known = {e.number for e in project.store.experiments(Selection(kind=None, trashed=None), limit=None)}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name.endswith(DELETING):
            yield Garbage("orphaned folder", path, size_of(path), "its deletion was interrupted")
        elif path.is_dir() and path.name.startswith(IMPORTING) and _is_idle(path):
            yield Garbage("orphaned folder", path, size_of(path), "its import was interrupted")
        elif path.is_dir() and path.name.isdecimal() and int(path.name) not in known:
            yield Garbage("orphaned folder", path, size_of(path), "no experiment has this number")
    folder = project.workspace.root / "datasets"
    names = {dataset.name for dataset in project.store.datasets()}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (
            path.is_dir() and path.name not in names and _is_idle(path)
        ):  # one that is being added is not in the store yet
            yield Garbage("orphaned folder", path, size_of(path), "no dataset has this name")


def _caches(project: "Project") -> Iterator[Garbage]:
    """Find caches that no experiment outside the trash reads."""
    folder = project.workspace.cache_dir
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    manifests = {path: read_manifest(path) or read_manifest(path, BUILD_FILE) for path in folders}
    if not any(manifests.values()):
        return
    used, unknown = _used_keys(project)
    for path, manifest in manifests.items():
        if path.name.endswith(DELETING):
            yield Garbage("unused cache", path, size_of(path), "its deletion was interrupted")
        elif manifest is None or manifest["key"] in used or path.name.rsplit("-", 2)[0] in unknown:
            continue
        elif _is_idle(path):
            yield Garbage("unused cache", path, size_of(path), "no experiment reads it")


def _used_keys(project: "Project") -> tuple[set[str], set[str]]:
    """Return the keys of all caches that some experiment reads, for its dataset or test sets.

    Also return the datasets whose catalog is gone, so that their keys are unknown: their caches are kept.
    """
    wanted: dict[int, set[CacheSpec]] = {}
    for e in project.store.experiments(Selection(kind=None), limit=None):
        experiment = project.store.experiment(e.number)
        spec = recipe_spec(from_toml(experiment.recipe))
        for version_id in (experiment.version_id, *(test.id for test in project.store.test_sets(e.dataset))):
            wanted.setdefault(version_id, set()).add(spec)
    keys, unknown = set(), set()
    for version_id, specs in wanted.items():
        version = project.store.version_by_id(version_id)
        try:
            digest = slices_digest(load_version(project.workspace, version).slices)
        except IchxError:
            unknown.add(version.dataset)
        else:
            keys |= {cache_key(digest, spec) for spec in specs}
    return keys, unknown


def _is_idle(folder: Path) -> bool:
    """Return whether nothing was written to a folder for a day."""
    newest = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    return time.time() - newest > FRESH_SECONDS


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.lstat().st_size if path.exists() else 0


def check_files(project: "Project") -> CheckResult:
    """Return which recorded predictions have lost their file."""
    missing = [
        f"experiment {e.number}, fold {p.fold}: {p.path} is gone; `ichx run {e.number}` creates it again"
        for e in project.store.experiments(Selection(kind=None), limit=None)
        for p in project.store.predictions(e.number)
        if not (project.workspace.root / p.path).is_file()
    ]
    return CheckResult("files of recorded predictions", tuple(missing))
