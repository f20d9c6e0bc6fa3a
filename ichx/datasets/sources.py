"""Where a dataset's files stand: a folder tree, a zip (or a folder in one) that is read in place, or one file alone.

The same files have the same names either way. Not for what a file says (`ichx.datasets.ingest`) or for the form of zips
(`ichx.datasets.zip_archive`).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.dicom import DecodedSlice, DicomDefectError, read_headers, read_slice
from ichx.datasets.zip_archive import MEMBER_BYTES, MEMBER_CRC, Member, ZipIndex, open_member, read_index
from ichx.errors import IchxError, did_you_mean
from ichx.text import EXAMPLES, format_count, format_examples

SOURCE_CHANGED_REMEDY: Final = (
    "bring the files back, or make a new version of them with `ichx data add`, and go on to it with "
    "`ichx exp clone NUMBER --dataset-version N`"
)


PASSED_OVER: Final = re.compile(r"(?<![^/])(?:\.|__MACOSX|(?i:DICOMDIR)$)")
"""Hidden files and folders, DICOMDIR, and what macOS adds to a zip: at the start of a part of a path."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a file stand: in the file at `path`, or in `member` of the zip at `path`."""

    path: str
    member: Member | None = None

    @property
    def told(self) -> str:
        """The place in words."""
        return self.path if self.member is None else f"{self.member.name} in {self.path}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A slice's place, with the fingerprint that the catalog knows it by.

    `bytes` is its size once inflated; `mtime_ns` when it was last changed, or for a member of a zip its CRC-32. `frame`
    is 0, or counts from 1 in a file of several.
    """

    place: Place
    bytes: int
    mtime_ns: int
    frame: int = 0


@dataclass(frozen=True)
class FileList:
    """The files of a source by name, sorted: POSIX paths relative to it. `place(i)` is where the i-th one stands.

    `fingerprints` (N, 2) int64 has bytes and CRC-32 of a zip's members; None for a folder, whose files are asked.
    """

    names: list[str]
    place: Callable[[int], Place]
    fingerprints: npt.NDArray[np.int64] | None = None


def list_files(source: Path) -> FileList:
    """Return the files of `source`: a folder, a zip, a folder in a zip, named like `data.zip/train`, or a DICOM file.

    Hidden files and folders, DICOMDIR and what macOS adds to a zip (`__MACOSX`) are passed over; links to folders are
    followed, each folder once. Raises `IchxError` where `source` is none of these, cannot be read, or has no files.
    """
    if source.is_dir():
        names = _find_files(source)
        return FileList(names, lambda number: Place(str(source / names[number])))
    if source.is_file() and _is_dicom(source):
        return FileList([source.name], lambda _: Place(str(source)))
    archive, inner = _split(source)
    return _members_below(archive, inner, read_index(archive))


def open_place(place: Place) -> BinaryIO:
    """Return the contents at `place`, to be read and sought in. Raises `OSError`; `DicomDefectError` for a member."""
    if place.member is None:
        return Path(place.path).open("rb")
    return open_member(Path(place.path), place.member)  # type: ignore[return-value]  # a BinaryIO in all that is used


def fingerprint(place: Place) -> tuple[int, int]:
    """Return (bytes, mtime_ns) of the file at `place`, or (bytes, CRC-32) of a member. Raises `OSError`."""
    if place.member is not None:
        return place.member.bytes, place.member.crc
    status = Path(place.path).stat()
    return status.st_size, status.st_mtime_ns


def read_source_slice(file: SourceFile) -> DecodedSlice:
    """Return the slice in `file`.

    Raises `IchxError` when it is gone, cannot be read now, or is not what the catalog knows; `DicomDefectError` else.
    """
    try:
        if fingerprint(file.place) != (file.bytes, file.mtime_ns):
            raise _unreadable(file.place, "it has changed since the dataset was added")
        if file.place.member is not None:
            contents = _kept_contents(file.place) if file.frame else _contents(file.place)
            return read_slice(BytesIO(contents), file.frame)
        with open_place(file.place) as handle:
            return read_slice(handle, file.frame)
    except OSError as error:
        raise _unreadable(file.place, error.strerror or str(error)) from error
    except DicomDefectError as defect:
        if defect.reason == "unreadable":  # the disk's or the network's fault, which may pass
            raise _unreadable(file.place, defect.detail) from defect
        raise


class SourceFiles:
    """The files of `slices` under `source`, by row. Without a column `frame` each is a file's only one."""

    def __init__(self, source: Path, slices: pd.DataFrame) -> None:
        """Raise `IchxError` where a zip (or the one file) differs from the catalog; others are tested when read."""
        self._source = source
        self._columns = [slices[column].to_numpy() for column in ("file", "bytes", "mtime_ns")]
        self._frames = slices["frame"].to_numpy() if "frame" in slices else np.zeros(len(slices), int)
        self._members: FileList | None = None
        self._numbers = np.empty(0, np.int64)
        if not source.is_dir() and len(slices):
            self._members = list_files(source)
            drift = find_drift(self._members, slices)
            if drift.told:
                raise IchxError(
                    f"{source} has changed since the dataset was added: {drift.told}", SOURCE_CHANGED_REMEDY
                )
            self._numbers = drift.numbers

    def of(self, rows: Iterable[int]) -> tuple[SourceFile, ...]:
        """Return the files of `rows`, in their order."""
        return tuple(self._file(row) for row in rows)

    def _file(self, row: int) -> SourceFile:
        files, sizes, mtimes = self._columns
        place = (
            Place(str(self._source / files[row]))
            if self._members is None
            else self._members.place(int(self._numbers[row]))
        )
        return SourceFile(place, int(sizes[row]), int(mtimes[row]), int(self._frames[row]))


@dataclass(frozen=True)
class Drift:
    """What differs between a source and a catalog: names of files that are gone, changed, or new, each sorted.

    `numbers` (N,) is where each row's file stands in the source's list, -1 for one that is gone.
    """

    numbers: npt.NDArray[np.int64]
    gone: tuple[str, ...]
    changed: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def told(self) -> str:
        """What of the catalog is no longer so, in words; empty when all of it is."""
        parts = []
        for names, what in ((self.gone, "gone"), (self.changed, "changed")):
            if names:
                parts.append(f"{format_count(len(names), 'file')} {what}{format_examples(names)}")
        return "; ".join(parts)


def find_drift(files: FileList, catalog: pd.DataFrame) -> Drift:
    """Return how `files` differ from those of `catalog`: by name, size, and time or checksum."""
    names = catalog["file"].to_numpy(object)
    known = catalog[["bytes", "mtime_ns"]].to_numpy(np.int64)
    numbers = _numbers_of(files, names)
    there = np.flatnonzero(numbers >= 0)
    if files.fingerprints is not None:
        found = files.fingerprints[numbers[there]]
    else:
        found = np.array([_fingerprint(files.place(int(number))) for number in numbers[there]]).reshape(-1, 2)
    new = np.ones(len(files.names), bool)
    new[numbers[there]] = False
    return Drift(
        numbers,
        tuple(sorted(set(names[numbers < 0]))),
        tuple(sorted(set(names[there[(found != known[there]).any(axis=1)]]))),
        tuple(sorted({files.names[number] for number in np.flatnonzero(new)} - set(names))),
    )


def read_zip_member(path: Path) -> bytes | None:
    """Return the contents of the file at `path` where it is a member of a zip, as in `data.zip/labels.csv`; or None.

    Raises `IchxError` where the zip has no such member, or it is damaged.
    """
    if path.exists() or not any(parent.is_file() for parent in path.parents):
        return None
    archive, inner = _split(path)
    index = read_index(archive)
    if inner not in index.names:
        alike = [name for name in index.names if Path(name).suffix == path.suffix]
        hint = did_you_mean(inner, alike) or f"there are others{format_examples(alike)}; " if alike else ""
        raise IchxError(f"there is no file {inner} in {archive}", f"{hint}give the path of an existing file")
    try:
        with open_member(archive, index.member(index.names.index(inner))) as stream:
            return stream.read()
    except DicomDefectError as defect:
        raise IchxError(f"{path} cannot be read: {defect.detail}", "copy or download the zip again") from defect
    except OSError as error:
        raise IchxError(f"{archive} cannot be read: {error.strerror}", "give yourself the right to read it") from error


def _is_dicom(path: Path) -> bool:
    """Whether the file at `path` is DICOM, whatever is wrong with it."""
    try:
        read_headers(path)
    except DicomDefectError as defect:
        return defect.reason not in ("not_dicom", "unreadable")
    return True


def _split(source: Path) -> tuple[Path, str]:
    """Return the zip that `source` lies in, and the path within it; empty for the zip itself."""
    for parent in (source, *source.parents):
        if parent.is_file():
            inner = source.relative_to(parent).as_posix()
            return parent, "" if inner == "." else inner
        if parent.exists():
            break
    raise IchxError(f"there is no folder {source}", "give the path of a folder or a zip with DICOM files")


def _members_below(archive: Path, folder: str, index: ZipIndex) -> FileList:
    prefix = f"{folder}/" if folder else ""
    numbers = [
        number
        for number, name in enumerate(index.names)
        if name.startswith(prefix) and (number in index.defects or not PASSED_OVER.search(name, len(prefix)))
    ]
    if not numbers and folder:
        folders = Counter(name.rpartition("/")[0] for name in index.names)
        folders.pop("", None)
        hint = did_you_mean(folder, list(folders))
        if not hint and folders:
            held = [f"{name} ({format_count(count, 'file')})" for name, count in folders.most_common(EXAMPLES)]
            hint = f"there are others{format_examples(held, len(folders))}; "
        raise IchxError(f"there is no folder {folder} in {archive}", f"{hint}name one after the zip: ZIP/FOLDER")
    if not numbers:
        raise IchxError(f"{archive} has no files", "give the zip that holds the DICOM files")
    numbers.sort(key=index.names.__getitem__)
    names = [index.names[number][len(prefix) :] for number in numbers]
    columns = np.frombuffer(index.numbers, np.int64).reshape(-1, 5)[numbers]
    return FileList(
        names, lambda number: Place(str(archive), index.member(numbers[number])), columns[:, [MEMBER_BYTES, MEMBER_CRC]]
    )


def _find_files(source: Path) -> list[str]:
    found: list[str] = []
    visited: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise IchxError(f"cannot look into {error.filename}: {error.strerror}", "give yourself the right to read it")

    for folder, folders, names in os.walk(source, followlinks=True, onerror=fail):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # With a slash, as in a zip's names: only a file can be a DICOMDIR.
        folders[:] = sorted(name for name in folders if not PASSED_OVER.search(f"{name}/"))
        parent = Path(folder).relative_to(source).as_posix()
        prefix = "" if parent == "." else f"{parent}/"
        found += [f"{prefix}{name}" for name in names if not PASSED_OVER.search(name)]
    if not found:
        raise IchxError(f"{source} has no files", "give the folder that holds the DICOM files")
    return sorted(found)


def _numbers_of(files: FileList, names: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Return the number in `files` of each of `names`, (N,), the first of that name; -1 for none."""
    number_of = dict(zip(reversed(files.names), range(len(files.names) - 1, -1, -1), strict=True))
    return np.array([number_of.get(name, -1) for name in names], np.int64)


def _contents(place: Place) -> bytes:
    with open_place(place) as handle:
        return handle.read()


_kept_contents = lru_cache(maxsize=1)(_contents)
"""The same, kept until another place is asked for: a member's frames are read one after another."""


def _fingerprint(place: Place) -> tuple[int, int]:
    """Return the fingerprint, or where it cannot be told the one that a catalog has of an unreadable file."""
    try:
        return fingerprint(place)
    except OSError:
        return 0, 0


def _unreadable(place: Place, why: str) -> IchxError:
    return IchxError(f"{place.told} cannot be read: {why}", SOURCE_CHANGED_REMEDY)
