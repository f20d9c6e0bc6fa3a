"""The files of a source: a folder tree, a zip (or a folder in one) read in place, or a single file.

File names do not depend on the kind of source. The zip format is in `zip_archive`.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.volumes import file_headers
from ichx.datasets.zip_archive import MEMBER_BYTES, MEMBER_CRC, ZipIndex, ZipMember, open_member, read_zip_index
from ichx.errors import ChangedDataError, CorruptFileError, InvalidInputError, NotFoundError, StorageError, did_you_mean
from ichx.files import open_file, printable_path
from ichx.text import EXAMPLES, format_count, format_examples

if TYPE_CHECKING:
    pass

SOURCE_CHANGED_REMEDY: Final = (
    "Restore the files, or add a new version of the dataset with `ichx data add` and pin an experiment to it with "
    "`ichx exp clone NUMBER --dataset-version N`."
)
PERMISSIONS_REMEDY: Final = "Check its permissions."


IGNORED: Final = re.compile(r"(?<![^/])(?:\.|__MACOSX|(?i:DICOMDIR)$)")
"""Starts of path components to skip: hidden files and folders, DICOMDIR, and what macOS adds to a zip."""


@dataclass(frozen=True, slots=True)
class FileLocation:
    """Where the bytes of a file are: the file at `path`, or `member` of the zip at `path`."""

    path: str
    member: ZipMember | None = None

    def __str__(self) -> str:
        """Return the location as messages show it."""
        path = printable_path(self.path)
        return path if self.member is None else f"{self.member.name} in {path}"

    def open(self) -> BinaryIO:
        """Return the content as a seekable stream.

        Raises `OSError`, also for a pipe, socket or device, and `DicomDefectError` for a damaged member.
        """
        if self.member is None:
            return open_file(Path(self.path))
        return open_member(Path(self.path), self.member)  # type: ignore[return-value]  # a BinaryIO in all that is used

    def fingerprint(self) -> tuple[int, int]:
        """Return (bytes, mtime_ns) of a file, or (bytes, CRC-32) of a member. Raises `OSError`."""
        if self.member is not None:
            return self.member.bytes, self.member.crc
        status = Path(self.path).stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class FileList:
    """The files of a source, sorted by name."""

    names: list[str]
    """POSIX paths relative to the source, see `printable_path`."""
    locate: Callable[[int], FileLocation]
    """Returns the location of a file by its position in `names`."""
    fingerprints: npt.NDArray[np.int64] | None = None
    """(N, 2) bytes and CRC-32 of a zip's members; None for a folder, whose files have to be read."""

    def matching(self, pattern: str) -> "FileList":
        """Return the files in whose names the regular expression `pattern` is found, in any case."""
        if not pattern:
            return self
        search = re.compile(pattern, re.IGNORECASE).search
        numbers = [number for number, name in enumerate(self.names) if search(name)]
        prints = None if self.fingerprints is None else self.fingerprints[numbers]
        return FileList([self.names[n] for n in numbers], lambda n: self.locate(numbers[n]), prints)


def list_files(source: Path) -> FileList:
    """Return the files of `source`: a folder, a zip, a folder in a zip, named like `data.zip/train`, or a file.

    Hidden files and folders, DICOMDIR and `__MACOSX` are skipped. Links to folders are followed, each folder once.

    Raises:
        NotFoundError: `source` does not exist.
        InvalidInputError: `source` is not one of these, or has no files.
        CorruptFileError: A zip is damaged.
        StorageError: `source` cannot be read.
    """
    if is_dir(source):
        found = _find_files(source)
        names = [name if name.isascii() else printable_path(name) for name in found]
        return FileList(names, lambda number: FileLocation(str(source / found[number])))
    if source.is_file() and _is_image(source):
        return FileList([printable_path(source.name)], lambda _: FileLocation(str(source)))
    archive, inner = _split(source)
    return _members_below(archive, inner, read_zip_index(archive))


def list_added_files(source: Path) -> FileList:
    """Return `list_files` of the source of a dataset. Raises `ChangedDataError` if the source was moved or removed."""
    try:
        return list_files(source)
    except NotFoundError as error:
        raise ChangedDataError(error.problem, SOURCE_CHANGED_REMEDY) from error


def read_zip_member(path: Path) -> bytes | None:
    """Return the content of `path` if it is a member of a zip, as in `data.zip/labels.csv`; otherwise None.

    Raises `NotFoundError`, `CorruptFileError` or `StorageError`.
    """
    if path.exists() or not any(parent.is_file() for parent in path.parents):
        return None
    archive, inner = _split(path)
    index = read_zip_index(archive)
    found = _find_inner(index.names, inner)
    if found not in index.names:
        similar = [name for name in index.names if Path(name).suffix == path.suffix]
        hint = did_you_mean(inner, similar) or (f"Similar files{format_examples(similar)}. " if similar else "")
        raise NotFoundError(f"{archive} has no file {inner}.", f"{hint}Give the path of an existing file.")
    try:
        with open_member(archive, index.member(index.names.index(found))) as stream:
            return stream.read()
    except DicomDefectError as defect:
        raise CorruptFileError(f"Cannot read {path}: {defect.detail}.", "Copy or download the zip again.") from defect
    except OSError as error:
        raise no_access(archive, error) from error


def is_dir(path: Path) -> bool:
    """Return whether `path` is a folder. Raises `StorageError` if that cannot be determined."""
    try:
        return path.is_dir()
    except OSError as error:  # no permission for a folder above, or a name that is too long
        raise no_access(path, error) from error


def _is_image(path: Path) -> bool:
    """Return whether the file at `path` is DICOM or NIfTI, with or without defects."""
    try:
        with open_file(path) as handle:
            file_headers(handle)
    except OSError:
        return False
    except DicomDefectError as defect:
        return defect.reason not in ("not_dicom", "unreadable")
    return True


def _split(source: Path) -> tuple[Path, str]:
    """Return the file that contains `source`, and the path within it; empty for the file itself."""
    for parent in (source, *source.parents):
        if parent.is_file():
            inner = printable_path(source.relative_to(parent).as_posix())
            return parent, "" if inner == "." else inner
        if parent.exists():
            break
    if source.exists():
        raise InvalidInputError(
            f"{source} is a pipe, a socket or a device.", "Give a folder or a zip with DICOM files."
        )
    raise NotFoundError(f"{source} does not exist.", "Give the path of a folder or a zip with DICOM or NIfTI files.")


def _find_inner(names: Sequence[str], inner: str) -> str:
    """Return how a zip with `names` spells its file or folder `inner`; `inner` if it has none.

    A folder that contains everything else may be omitted, and Unicode may be composed or decomposed.
    """

    def form(text: str) -> str:
        return text if inner.isascii() else unicodedata.normalize("NFC", text)

    visible = [name for name in names if not IGNORED.search(name)]
    ends = zip(min(visible, default="").split("/"), max(visible, default="").split("/"), strict=False)
    top = ""
    for folder in ("", *(f"{first}/" for first, _ in takewhile(lambda pair: pair[0] == pair[1], ends))):
        top += folder
        wanted = form(top + inner)
        for name in names:
            if (plain := form(name)) == wanted or plain.startswith(f"{wanted}/"):
                return "/".join(name.split("/")[: wanted.count("/") + 1])
    return inner


def name_as_utf8(name: str) -> str:
    """Return the name of a zip's member in the catalog of ichx 0.1, which read UTF-8 as code page 437."""
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _members_below(archive: Path, folder: str, index: ZipIndex) -> FileList:
    prefix = f"{_find_inner(index.names, folder)}/" if folder else ""
    numbers = [
        number
        for number, name in enumerate(index.names)
        if name.startswith(prefix) and (number in index.defects or not IGNORED.search(name, len(prefix)))
    ]
    if not numbers and folder:
        folders = Counter(name.rpartition("/")[0] for name in index.names)
        folders.pop("", None)
        hint = did_you_mean(folder, list(folders))
        if not hint and folders:
            largest = [f"{name} ({format_count(count, 'file')})" for name, count in folders.most_common(EXAMPLES)]
            hint = f"The zip has other folders{format_examples(largest, len(folders))}. "
        raise NotFoundError(f"{archive} has no folder {folder}.", f"{hint}Give an existing folder as ZIP/FOLDER.")
    if not numbers:
        raise InvalidInputError(f"{archive} has no files.", "Give the zip with the DICOM files.")
    numbers.sort(key=index.names.__getitem__)
    names = [index.names[number][len(prefix) :] for number in numbers]
    columns = np.frombuffer(index.numbers, np.int64).reshape(-1, 5)[numbers]
    return FileList(
        names,
        lambda number: FileLocation(str(archive), index.member(numbers[number])),
        columns[:, [MEMBER_BYTES, MEMBER_CRC]],
    )


def _find_files(source: Path) -> list[str]:
    found: list[str] = []
    visited: set[tuple[int, int]] = set()
    pending = [""]  # not `os.walk`, which fails for deeply nested folders before Python 3.12
    while pending:
        prefix = pending.pop()
        folders: list[str] = []
        try:
            status = (source / prefix).stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(source / prefix) as entries:
                for entry in entries:
                    # With a slash, as in the names of a zip: only a file is a DICOMDIR.
                    name = f"{entry.name}/" if _is_folder(entry) else entry.name
                    if not IGNORED.search(name):
                        (folders if name[-1] == "/" else found).append(f"{prefix}{name}")
        except OSError as error:
            raise no_access(source / prefix, error) from error
        pending += sorted(folders, reverse=True)
    if not found:
        raise InvalidInputError(f"{source} has no files.", "Give the folder with the DICOM files.")
    return sorted(found)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def no_access(path: Path, error: OSError) -> StorageError:
    """Return the error for a folder or file that cannot be read."""
    return StorageError(f"Cannot read {printable_path(path)}: {error.strerror}.", PERMISSIONS_REMEDY)
