"""The files of a dataset's slices: where each is in its source, how it is read, and whether the source has changed.

All files of a source are listed in `file_list`. Headers are read in `ingest`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import DecodedSlice, DicomDefectError, read_slice
from ichx.datasets.file_list import (
    SOURCE_CHANGED_REMEDY,
    FileList,
    FileLocation,
    is_dir,
    list_added_files,
    name_as_utf8,
)
from ichx.datasets.volumes import read_volume_slice
from ichx.errors import ChangedDataError
from ichx.files import path_of
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The location of a slice and its fingerprint in the catalog."""

    location: FileLocation
    bytes: int
    """Size, inflated."""
    mtime_ns: int
    """Time of the last change; for a member of a zip its CRC-32."""
    frame: int = 0
    """0, or from 1 in a file with several frames and in a NIfTI volume."""


def read_source_slice(file: SourceFile) -> DecodedSlice:
    """Return the slice in `file`.

    Raises `ChangedDataError` if the file was removed or changed after the dataset was added or cannot be read now, and
    `DicomDefectError` if the slice has a defect.
    """
    location = file.location
    try:
        if location.fingerprint() != (file.bytes, file.mtime_ns):
            raise _unreadable(location, "it was changed after the dataset was added")
        if file.frame and (found := read_volume_slice(location, (file.bytes, file.mtime_ns), file.frame)):
            return found
        if location.member is not None:
            content = _cached_content(location) if file.frame else _content(location)
            return read_slice(BytesIO(content), file.frame)
        with location.open() as handle:
            return read_slice(handle, file.frame)
    except OSError as error:
        raise _unreadable(location, error.strerror or str(error)) from error
    except DicomDefectError as defect:
        if defect.reason == "unreadable":  # a failure of the disk or the network, which may be temporary
            raise _unreadable(location, defect.detail) from defect
        raise


class SourceFiles:
    """The files of slices by row."""

    def __init__(self, source: Path, slices: "pd.DataFrame") -> None:
        """Find the files of `slices` in `source`; without a column `frame`, each file has one frame.

        Slices of a mixture have a column `source`, which is read instead.

        Raises:
            ChangedDataError: A zip or single file differs from the catalog. Files in a folder are checked when read.
        """
        self._parts: list[SourceFiles] = []
        if "source" in slices:
            names = slices["source"].to_numpy(object)
            self._part_of = np.zeros(len(slices), np.int64)
            self._row_in_part = np.zeros(len(slices), np.int64)
            for number, name in enumerate(dict.fromkeys(names)):
                rows = np.flatnonzero(names == name)
                self._part_of[rows], self._row_in_part[rows] = number, np.arange(len(rows))
                self._parts.append(SourceFiles(path_of(name), slices.iloc[rows].drop(columns="source")))
            return
        self._source = source
        self._columns = [slices[column].to_numpy() for column in ("file", "bytes", "mtime_ns")]
        self._frames = slices["frame"].to_numpy() if "frame" in slices else np.zeros(len(slices), int)
        self._members: FileList | None = None
        self._numbers = np.empty(0, np.int64)
        if not is_dir(source) and len(slices):
            self._members = list_added_files(source)
            drift = find_drift(self._members, slices)
            drift.raise_if_changed(source)
            self._numbers = drift.numbers

    def select(self, rows: Iterable[int]) -> tuple[SourceFile, ...]:
        """Return the files of `rows`, in their order."""
        return tuple(self._file(row) for row in rows)

    def _file(self, row: int) -> SourceFile:
        if self._parts:
            part = self._parts[int(self._part_of[row])]
            return part._file(int(self._row_in_part[row]))
        names, sizes, mtimes = self._columns
        if self._members is None:
            location = FileLocation(str(path_of(names[row], self._source)))
        else:
            location = self._members.locate(int(self._numbers[row]))
        return SourceFile(location, int(sizes[row]), int(mtimes[row]), int(self._frames[row]))


def locate_slice(source: Path, row: Mapping[str, Any]) -> SourceFile:
    """Return the file of one slice, `row` of a catalog as a dict; `SourceFiles` is for many.

    Raises:
        ChangedDataError: The zip or single file that has it was moved, removed or lacks it.
    """
    if row.get("source"):
        source = path_of(row["source"])
    name, fingerprint = row["file"], (row["bytes"], row["mtime_ns"], row["frame"])
    if is_dir(source):
        return SourceFile(FileLocation(str(path_of(name, source))), *fingerprint)
    archive = next((path for path in (source, *source.parents) if path.is_file()), source)
    try:
        status = archive.stat()
        files = _listed(source, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise _unreadable(FileLocation(str(archive)), error.strerror or str(error)) from error
    number = next((i for i, found in enumerate(files.names) if found == name), None)
    if number is None and name_as_utf8(name) != name:
        return locate_slice(source, {**row, "file": name_as_utf8(name)})
    if number is None:
        raise _unreadable(FileLocation(str(source)), f"it has no file {name}")
    return SourceFile(files.locate(number), *fingerprint)


@lru_cache(maxsize=1)
def _listed(source: Path, _mtime_ns: int, _size: int) -> FileList:
    """Return the files of a zip or single file, read again after a change."""
    return list_added_files(source)


@dataclass(frozen=True)
class Drift:
    """Differences between a source and a catalog: sorted names of removed, changed and new files."""

    numbers: npt.NDArray[np.int64]
    """(N,) position of each row's file in the list of files; -1 for a removed one."""
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    new: tuple[str, ...]

    def raise_if_changed(self, source: Path) -> None:
        """Raise `ChangedDataError` if files of the catalog were removed or changed; new files do not count."""
        counts = [
            f"{format_count(len(names), 'file')} {what}{format_examples(names)}"
            for what, names in (("removed", self.removed), ("changed", self.changed))
            if names
        ]
        if counts:
            problem = f"{source} differs from the files that were added: {'; '.join(counts)}."
            raise ChangedDataError(problem, SOURCE_CHANGED_REMEDY)


def find_drift(files: FileList, catalog: "pd.DataFrame") -> Drift:
    """Return how `files` differ from those of `catalog` in name, size, and time or checksum."""
    names = catalog["file"].to_numpy(object)
    known = catalog[["bytes", "mtime_ns"]].to_numpy(np.int64)
    number_of = dict(zip(reversed(files.names), range(len(files.names) - 1, -1, -1), strict=True))  # first of a name
    if files.fingerprints is not None:
        names = np.array([name if name in number_of else name_as_utf8(name) for name in names], object)
    numbers = np.array([number_of.get(name, -1) for name in names], np.int64)
    present = np.flatnonzero(numbers >= 0)
    if files.fingerprints is not None:
        found = files.fingerprints[numbers[present]]
    else:
        found = np.array([_fingerprint(files.locate(int(number))) for number in numbers[present]]).reshape(-1, 2)
    return Drift(
        numbers,
        removed=tuple(sorted(set(names[numbers < 0]))),
        changed=tuple(sorted(set(names[present[(found != known[present]).any(axis=1)]]))),
        new=tuple(sorted(set(files.names) - set(names))),
    )


def _content(location: FileLocation) -> bytes:
    with location.open() as handle:
        return handle.read()


_cached_content = lru_cache(maxsize=1)(_content)
"""Keeps the last content: the frames of a member are read one after another."""


def _fingerprint(location: FileLocation) -> tuple[int, int]:
    """Return the fingerprint, or that of an unreadable file in a catalog."""
    try:
        return location.fingerprint()
    except OSError:
        return 0, 0


def _unreadable(location: FileLocation, why: str) -> ChangedDataError:
    return ChangedDataError(f"Cannot read {location}: {why}.", SOURCE_CHANGED_REMEDY)
