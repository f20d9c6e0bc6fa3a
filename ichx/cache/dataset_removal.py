"""Removing a dataset with everything that ichx created from it. The source files of the user stay."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.cache.mask_file import fold_masks_key, masks_path
from ichx.cache.verify import find_caches, foreign_caches
from ichx.datasets.fold_masks import masks_of_parts
from ichx.errors import StorageError
from ichx.files import size_of
from ichx.labels import PSEUDO
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class DatasetArtifact:
    """A file or folder in the workspace that belongs to a dataset."""

    what: str
    path: Path
    nbytes: int
    files: tuple[Path, ...] = ()
    """If not empty, only these files in the folder `path`."""


def dataset_artifacts(project: "Project", name: str) -> list[DatasetArtifact]:
    """Return what `remove_dataset` deletes: the folder of the dataset, its caches, predictions of it.

    Raises:
        NotFoundError: The dataset does not exist.
        ConflictError: An experiment or a test set depends on it.
    """
    project.store.check_unused(name)
    caches = {cache.folder for cache in find_caches(project.workspace.cache_dir, name, "")}
    caches |= set(foreign_caches(project.workspace.cache_dir, name))
    predictions: dict[int, list[Path]] = {}
    for prediction in project.store.predictions_of(name):
        predictions.setdefault(prediction.experiment, []).append(project.workspace.root / prediction.path)
    versions = {project.store.version(name, number).id for number in project.store.version_numbers(name)}
    features = [project.workspace.root / t.path for t in project.store.feature_tables() if t.version_id in versions]
    folder = project.workspace.root / "datasets" / name
    reviews = len(project.store.reviews(name))
    what = "catalog, folds" + (f", {format_count(reviews, 'review')}" if reviews else "")
    artifacts = [DatasetArtifact(what, folder, size_of(folder))]
    artifacts += [DatasetArtifact("cache", cache, size_of(cache)) for cache in sorted(caches)]
    for number, files in predictions.items():
        what, nbytes = format_count(len(files), "prediction"), sum(map(size_of, files))
        artifacts.append(DatasetArtifact(what, project.workspace.experiment_dir(number), nbytes, tuple(files)))
    for path in features:
        tables = tuple(file for file in (path, path.with_suffix(".json")) if file.exists())
        if tables:
            artifacts.append(DatasetArtifact("features", path.parent, sum(map(size_of, tables)), tables))
    masks = _pseudo_masks(project, name)
    if masks:
        nbytes = sum(map(size_of, masks))
        artifacts.append(DatasetArtifact("cached masks", project.workspace.cache_dir, nbytes, tuple(masks)))
    return artifacts


def _pseudo_masks(project: "Project", name: str) -> list[Path]:
    """Return the cached pseudo-masks of a dataset, which are in the caches of the one that it labels."""
    found = list[Path]()
    for number in project.store.version_numbers(name):
        version = project.store.version(name, number)
        for stored in masks_of_parts(version).values() if PSEUDO in version.summary else ():
            caches = find_caches(project.workspace.cache_dir, version.summary[PSEUDO]["of"]["dataset"], "")
            paths = [masks_path(c.folder, fold_masks_key(key)) for c in caches for key in stored.digests.values()]
            found += [path for path in dict.fromkeys(paths) if path.exists() and path not in found]
    return found


def remove_dataset(project: "Project", name: str) -> None:
    """Delete the dataset `name` and its `dataset_artifacts`, first from the store and then from disk.

    Raises:
        NotFoundError: The dataset does not exist.
        ConflictError: An experiment or a test set depends on it.
        StorageError: A file cannot be deleted.
    """
    artifacts = dataset_artifacts(project, name)
    project.store.delete_dataset(name)
    for path in (path for artifact in artifacts for path in artifact.files or (artifact.path,)):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"Dataset {name!r} is removed, but {path} cannot be deleted: {error.strerror or error}.",
                "Delete it by hand.",
            ) from error
