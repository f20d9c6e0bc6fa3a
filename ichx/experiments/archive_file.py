"""Reading of archives of experiments and ensembles, which are not trusted: names and sizes of members are checked."""

import contextlib
import lzma
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from sqlalchemy.exc import IntegrityError

from ichx import __version__
from ichx.errors import CorruptFileError, NotFoundError, StorageError, UnsupportedError
from ichx.experiments.gc import IMPORTING
from ichx.files import open_file
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project

INDEX_BYTES = 100_000_000
"""Longer indexes are refused."""
RATIO = 20
"""Archives that expand by more than this factor are refused: their members hardly compress."""
_DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    pa.ArrowException,
)
"""What readers of zip and Parquet files raise for damaged ones."""


@dataclass(frozen=True)
class ArchiveKind:
    """What an archive contains."""

    subject: str
    """`experiment` or `ensemble`."""
    index: str
    """Name of the member that describes the others."""
    members: re.Pattern[str]
    """Names of the other members."""
    formats: tuple[int, ...]
    """Known values of `format` in the index."""
    compressed: bool
    """Whether members may be compressed."""
    remedy: str
    """Names the command that writes such files."""


@dataclass(frozen=True)
class OpenArchive:
    """An archive whose members have known names and sizes."""

    zip: zipfile.ZipFile
    index: Mapping[str, Any]
    folder: Path
    """A new folder next to the experiments, which is removed at the end unless it was renamed."""

    def extract(self, member: zipfile.ZipInfo) -> None:
        """Write a member below `folder`, at most the number of bytes that it declares."""
        target = self.folder / member.filename
        target.parent.mkdir(exist_ok=True)
        left = member.file_size
        with self.zip.open(member) as source, target.open("xb") as handle:
            while block := source.read(min(1 << 20, left + 1)):
                left -= len(block)
                if left < 0:
                    raise zipfile.BadZipFile(f"{member.filename} is longer than it declares")
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())  # before the store has a record of it


@contextlib.contextmanager
def open_archive(project: "Project", file: Path, kind: ArchiveKind) -> Iterator[OpenArchive]:
    """Yield the archive `file`; what the block raises for invalid content becomes an error of the file.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: It is no such archive, is damaged or hostile.
        UnsupportedError: It is of a newer version of ichx.
        StorageError: The workspace cannot be written.
    """
    folder = project.workspace.experiments_dir / f"{IMPORTING}{secrets.token_hex(4)}"
    again = f"Export the {kind.subject} again."
    try:
        folder.mkdir(parents=True)
        with _open_zip(file, kind) as archive:
            yield OpenArchive(archive, _read_index(archive, file, kind), folder)
    except _DAMAGED as error:
        raise CorruptFileError(f"{file} is damaged: {error}.", again) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IntegrityError) as error:
        problem = f"{kind.index} in {file} is invalid: {type(error).__name__} {str(error).splitlines()[0]}."
        raise CorruptFileError(problem, again) from error
    except OSError as error:
        problem = f"Cannot write to {project.workspace.experiments_dir}: {error.strerror}."
        raise StorageError(problem, "Free some space or make it writable.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_zip(file: Path, kind: ArchiveKind) -> zipfile.ZipFile:
    try:
        open_file(file).close()  # a pipe would be waited for
        return zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {file}.", kind.remedy) from error
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptFileError(f"{file} is not an export of an {kind.subject}: {error}.", kind.remedy) from error


def _read_index(archive: zipfile.ZipFile, file: Path, kind: ArchiveKind) -> Mapping[str, Any]:
    """Return the index after checking the name and size of every member."""
    problem = None
    names, size = archive.namelist(), file.stat().st_size
    total = sum(member.file_size for member in archive.infolist())
    if kind.index not in names:
        problem = f"it has no {kind.index}"
    elif len(names) != len(set(names)):
        problem = "it has a member twice"
    elif unexpected := [name for name in names if name != kind.index and not kind.members.fullmatch(name)]:
        problem = f"it has an unexpected member {unexpected[0]!r}"
    elif not kind.compressed and any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        problem = "it is compressed"
    elif archive.getinfo(kind.index).file_size > INDEX_BYTES:
        problem = f"{kind.index} is too long"
    elif total > (RATIO * size + INDEX_BYTES if kind.compressed else size):
        problem = f"it would take {total:,} bytes, too many for its size of {size:,}"
    if problem:
        raise CorruptFileError(f"{file} is refused: {problem}.", kind.remedy)
    with archive.open(kind.index) as handle:
        index: Mapping[str, Any] = parse_json(handle.read(INDEX_BYTES + 1))
    if index["format"] not in kind.formats:
        raise UnsupportedError(
            f"{file} has format {index['format']!r}, which ichx {__version__} does not read.",
            f"Use ichx {index['ichx']}.",
        )
    return index
