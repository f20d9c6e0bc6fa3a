"""Replicas: miniature copies of the layouts of public datasets, filled with synthetic studies."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ichx.datasets.formats.contract import ReplicaOptions
from ichx.datasets.formats.registry import load_formats
from ichx.datasets.ingest import ProgressCallback
from ichx.errors import UnsupportedError
from ichx.files import absolute_path
from ichx.labels import ANY
from ichx.phantom.dicom_files import check_size, phantom_folder
from ichx.phantom.study import PhantomStudy, make_study


@dataclass(frozen=True)
class ReplicaFiles:
    """A written replica."""

    folder: Path
    format: str
    slices: int


REPLICA_PREVALENCE: Final = {ANY: 0.4}
"""Share of positive slices: replicas are small, and each subtype should occur."""


def replica_studies(options: ReplicaOptions, progress: ProgressCallback) -> Iterator[PhantomStudy]:
    """Yield the studies of a replica."""
    for number in range(options.patients):
        yield make_study(options.seed, number, size=options.size, prevalence=REPLICA_PREVALENCE)
        progress(number + 1, options.patients)


def write_replica(
    folder: Path, name: str, options: ReplicaOptions, *, progress: ProgressCallback | None = None
) -> ReplicaFiles:
    """Write a replica of the format `name` to `folder`, which must be empty or absent.

    `progress` receives (done, total) studies.

    Raises:
        NotFoundError: There is no such format.
        UnsupportedError: The format has no replica.
        InvalidInputError: An option is invalid.
        ConflictError: The folder exists and is not empty.
        StorageError: The folder cannot be written.
        ResourceError: The disk has too little space.
    """
    declared = load_formats().get(name)
    if declared.write_replica is None:
        raise UnsupportedError(f"The format {name!r} has no replica.", "`ichx data formats` lists those that have one.")
    check_size(options.patients, 0, options.seed, options.size)
    folder = absolute_path(folder)
    with phantom_folder(folder, options.patients, options.size) as draft:
        slices = declared.write_replica(draft, options, progress or (lambda done, total: None))
    return ReplicaFiles(folder, name, slices)
