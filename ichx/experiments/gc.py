"""Garbage collection: finds files that nothing needs, and deletes them on request.

Experiments in the trash, checkpoints of finished folds, orphaned folders, unused caches, files of ended jobs. A missing
record is never a reason to delete a training: such a folder is moved to the workspace's `trash` first, and stays there
for a month. If the store looks younger than the folders, e.g. because its file was lost, they stay where they are.
"""

import secrets
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.cache.hu_cache import BUILD_FILE, CacheSpec, cache_key, read_manifest, slices_digest
from ichx.cache.mask_file import mask_parts_folders
from ichx.cache.mixture_cache import part_keys
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_version
from ichx.datasets.mixture import mixture_parts
from ichx.errors import IchxError, StorageError
from ichx.evaluation.member_outputs import inputs_of
from ichx.experiment_files import FEATURES_FOLDER
from ichx.experiments.dataset_garbage import orphaned_datasets
from ichx.experiments.folder_record import read_record
from ichx.experiments.garbage import FRESH_SECONDS, Garbage, is_idle
from ichx.files import size_of
from ichx.recipe_text import from_toml
from ichx.store import Selection
from ichx.store.jobs import ACTIVE
from ichx.store.maintenance import CheckResult
from ichx.training.checkpoint_files import checkpoints

if TYPE_CHECKING:
    from ichx.project import Project

IMPORTING = ".import-"
"""Prefix of the folder into which an experiment is imported."""
DELETING = ".deleting"
"""Suffix of a folder whose deletion has begun."""
TRASH_SECONDS = 30 * 24 * 3600
"""How long folders stay in the workspace's trash."""


def find_garbage(project: "Project") -> list[Garbage]:
    """Return everything that can be deleted, by kind. Changes nothing.

    Folders of datasets and caches are left out while there are folders as in `unregistered`.
    """
    found = [*_trashed(project), *_leftovers(project), *_features(project)]
    found += [*_interrupted(project), *_old_trash(project), *_ended_jobs(project)]
    if not unregistered(project):
        found += [*_orphans(project), *_caches(project)]
    return found


def unregistered(project: "Project") -> list[Path]:
    """Return the folders with trainings that are older than the store's use of this workspace, but unknown to it.

    The store has lost its memory, or was exchanged. Nothing can be said about what is needed.
    """
    folders = _numbered(project)
    state = project.store.state()
    known = _known(project)
    return [
        path
        for path in folders
        if int(path.name) not in known
        and project.workspace.experiment_files(int(path.name)).has_training()
        and (int(path.name) > state.numbers.get("experiment", 0) or _is_older(path, state.since))
    ]


def delete(project: "Project", garbage: Garbage) -> None:
    """Delete `garbage` permanently, or move it to the trash; the next call finishes an interrupted deletion.

    Raises:
        StorageError: A file cannot be removed.
    """
    try:
        if garbage.move:
            target = project.workspace.trash_dir / f"{garbage.path.parent.name}-{garbage.path.name}"
            while target.exists():
                target = target.with_name(f"{target.name}-{secrets.token_hex(2)}")
            target.parent.mkdir(exist_ok=True)
            garbage.path.touch()  # the month begins now; after the move, a kill would leave a folder that looks old
            garbage.path.rename(target)
            return
        if garbage.path.is_dir() and not garbage.path.is_symlink():
            doomed = garbage.path
            if not doomed.name.endswith(DELETING):
                doomed = doomed.rename(doomed.with_name(doomed.name + DELETING))
            try:
                _purge(project, garbage)
            except BaseException:
                doomed.rename(garbage.path)  # the user has restored it
                raise
            shutil.rmtree(doomed)
        else:
            _purge(project, garbage)
            garbage.path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot delete {garbage.path}: {error.strerror}.", "Make its folder writable, then run again."
        ) from error


def _purge(project: "Project", garbage: Garbage) -> None:
    if garbage.experiment is not None:
        project.store.purge(garbage.experiment)
    if garbage.path.name.removesuffix(DELETING) == FEATURES_FOLDER:
        project.store.remove_feature_tables(int(garbage.path.parent.name))


def _trashed(project: "Project") -> Iterator[Garbage]:
    found = project.store.experiments(Selection(kind=None, trashed=True), limit=None)
    numbers = [e.number for e in found]
    used = project.store.ensembles_containing(numbers).keys() | project.store.sequences_of(numbers).keys()
    for e in found:
        if e.number not in used and _owns_folder(project, e.number):
            folder = project.workspace.experiment_dir(e.number)
            yield Garbage("experiment in the trash", folder, size_of(folder), f"{e.number}: {e.name}", e.number)


def _owns_folder(project: "Project", number: int) -> bool:
    """Return whether the folder of experiment `number` has no record, or that of this experiment."""
    try:
        record = read_record(project.workspace.experiment_files(number).record)
    except IchxError:
        return False  # nothing is known about it
    return record is None or record.get("id") == project.store.experiment(number).id


def _leftovers(project: "Project") -> Iterator[Garbage]:
    """Find checkpoints of finished folds."""
    for e in project.store.experiments(Selection(kind=None), limit=None):
        if not e.folds_done or not _owns_folder(project, e.number):
            continue
        runs = project.store.runs(e.number)
        busy = {run.fold for run in runs if run.state in ("running", "stalled")}
        for fold in sorted({run.fold for run in runs if run.state == "done"} - busy):
            files = project.workspace.experiment_files(e.number).fold(fold)
            for path in checkpoints(files.folder) if files.weights.is_file() else ():
                yield Garbage("old checkpoint", path, size_of(path), f"fold {fold} of experiment {e.number} is done")


def _features(project: "Project") -> Iterator[Garbage]:
    """Find feature tables that no sequence experiment outside the trash reads; they can be computed again."""
    readers, known = set(), _known(project)
    for e in project.store.experiments(Selection(kind=None), limit=None):
        if e.members and "features" in inputs_of(project.store.experiment(e.number)):
            readers |= set(e.members)
    for path in _numbered(project):
        files = project.workspace.experiment_files(int(path.name))
        folder = files.features_folder
        if int(path.name) not in known:
            continue
        if int(path.name) not in readers and folder.is_dir() and is_idle(folder):
            yield Garbage("unused features", folder, size_of(folder), "no sequence experiment reads them")
        for deleted in path.glob(f"{folder.name}{DELETING}"):
            yield Garbage("unused features", deleted, size_of(deleted), "its deletion was interrupted")


def _interrupted(project: "Project") -> Iterator[Garbage]:
    """Find folders whose deletion or import was interrupted."""
    folder = project.workspace.experiments_dir
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name.endswith(DELETING):
            yield Garbage("orphaned folder", path, size_of(path), "its deletion was interrupted")
        elif path.is_dir() and path.name.startswith(IMPORTING) and is_idle(path):
            yield Garbage("orphaned folder", path, size_of(path), "its import was interrupted")


def _orphans(project: "Project") -> Iterator[Garbage]:
    """Find folders of experiments and datasets that the store does not know."""
    folders = _numbered(project)
    known = _known(project)  # read after the folders: one that is registered now is not an orphan
    for path in folders:
        if int(path.name) not in known and is_idle(path):  # one that is being imported is not in the store yet
            trained = project.workspace.experiment_files(int(path.name)).has_training()
            reason = "no experiment has this number" + ("; moved to trash/ for 30 days" if trained else "")
            yield Garbage("orphaned folder", path, size_of(path), reason, move=trained)
    yield from orphaned_datasets(project)


def _old_trash(project: "Project") -> Iterator[Garbage]:
    """Find folders that have been in the workspace's trash for a month."""
    folder = project.workspace.trash_dir
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.endswith(DELETING):
            yield Garbage("old trash", path, size_of(path), "its deletion was interrupted")
        elif time.time() - path.stat().st_mtime > TRASH_SECONDS:
            yield Garbage("old trash", path, size_of(path), "in trash/ for more than 30 days")


def _ended_jobs(project: "Project") -> Iterator[Garbage]:
    """Find the folders of submissions whose jobs have all ended; the logs of folds are elsewhere."""
    folder = project.workspace.jobs_dir
    paths = [path for path in sorted(folder.iterdir()) if path.name[0] != "."] if folder.is_dir() else []
    if not paths:
        return
    records = project.store.jobs()
    known, active = {r.submission for r in records}, {r.submission for r in records if r.state in ACTIVE}
    for path in paths:
        submission = path.name.removesuffix(DELETING)
        if path.name.endswith(DELETING):
            yield Garbage("old job files", path, size_of(path), "its deletion was interrupted")
        elif submission not in active and is_idle(path, FRESH_SECONDS if submission in known else TRASH_SECONDS):
            yield Garbage("old job files", path, size_of(path), "its jobs have ended")


def _known(project: "Project") -> set[int]:
    return {e.number for e in project.store.experiments(Selection(kind=None, trashed=None), limit=None)}


def _numbered(project: "Project") -> list[Path]:
    """Return the folders whose names are numbers of experiments."""
    folder = project.workspace.experiments_dir
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in paths if path.is_dir() and path.name.isdecimal()), key=lambda path: int(path.name))


def _is_older(folder: Path, since: datetime | None) -> bool:
    """Return whether all files of `folder` are older than `since`."""
    if since is None:
        return False
    return all(path.stat().st_mtime < since.timestamp() for path in folder.rglob("*") if path.is_file())


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
            continue
        read = manifest is None or manifest["key"] in used or path.name.rsplit("-", 2)[0] in unknown
        if not read and is_idle(path):
            yield Garbage("unused cache", path, size_of(path), "no experiment reads it")
        else:
            yield from _mask_parts(path)


def _mask_parts(cache: Path) -> Iterator[Garbage]:
    """Find what an unfinished `ichx data pseudo --masks` has saved."""
    for path in mask_parts_folders(cache):
        if path.name.endswith(DELETING):
            yield Garbage("orphaned folder", path, size_of(path), "its deletion was interrupted")
        elif is_idle(path):
            yield Garbage("orphaned folder", path, size_of(path), "the prediction of masks was interrupted")


def _used_keys(project: "Project") -> tuple[set[str], set[str]]:
    """Return the keys of all caches that some experiment reads, for its dataset or test sets.

    Also return the datasets whose catalog is gone, so that their keys are unknown: their caches are kept.
    """
    wanted: dict[int, set[CacheSpec]] = {}
    for e in project.store.experiments(Selection(kind=None), limit=None):
        experiment = project.store.experiment(e.number)
        if experiment.members or experiment.external:
            continue  # it reads predictions of its members or of another tool, no images
        spec = recipe_spec(from_toml(experiment.recipe))
        for version_id in (experiment.version_id, *(test.id for test in project.store.test_sets(e.dataset))):
            wanted.setdefault(version_id, set()).add(spec)
    keys, unknown = set(), set()
    for version_id, specs in wanted.items():
        version = project.store.version_by_id(version_id)
        try:
            data = load_version(project.workspace, version)
            digest = slices_digest(data.slices)
        except IchxError:
            unknown |= {version.dataset, *(part.dataset for part in mixture_parts(version))}
        else:
            keys |= {cache_key(digest, spec) for spec in specs} | part_keys(data, specs)
    return keys, unknown


def check_files(project: "Project") -> CheckResult:
    """Return which recorded predictions have lost their file."""
    missing = [
        f"experiment {e.number}, fold {p.fold}: {p.path} is gone; `ichx run {e.number}` creates it again"
        for e in project.store.experiments(Selection(kind=None), limit=None)
        for p in project.store.predictions(e.number)
        if not (project.workspace.root / p.path).is_file()
    ]
    return CheckResult("files of recorded predictions", tuple(missing))
