"""A folder of files to one record per file: what its header says, or the defect for which it is refused.

Not for what needs the whole dataset: duplicates, order in a series, labels (`ichx.data.catalog`).
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from ichx.ct.dicom import DicomDefectError, SliceHeader, read_headers, read_slice
from ichx.errors import IchxError

Progress = Callable[[int, int], None]
"""Is told (done, total)."""

CHUNK: Final = 512
"""Files that a process reads before it reports."""

PARALLEL_FROM: Final = 10_000
"""Number of files from which starting processes pays."""

TEXT: Final[Any] = pd.Series(["text"]).dtype
"""The type that this pandas gives to texts."""

SCANNED: Final[dict[str, Any]] = {
    "file": TEXT,
    "bytes": "int64",
    "mtime_ns": "int64",
    "slice_id": TEXT,
    "patient_id": TEXT,
    "study_id": TEXT,
    "series_id": TEXT,
    "instance_number": "int32",
    "rows": "int32",
    "columns": "int32",
    "spacing_row": "float64",
    "spacing_column": "float64",
    **{f"pos_{axis}": "float64" for axis in "xyz"},
    **{f"orientation_{i}": "float64" for i in range(6)},
    "window_centre": "float32",
    "window_width": "float32",
    "window_missing": "bool",
    "slope": "float64",
    "intercept": "float64",
    "bits_stored": "int16",
    "signed": "bool",
    "intercept_repaired": "bool",
    "transfer_syntax": TEXT,
    "defect": TEXT,
}
"""Columns of a scan and their types. Texts are empty, numbers NaN, 0 or (instance number) -1 where nothing is known."""

Record = tuple[object, ...]

NAN = float("nan")


def scan_folder(source: Path, *, progress: Progress | None = None, processes: int | None = None) -> pd.DataFrame:
    """Return one row per file under `source`, sorted by its path, with the columns of `SCANNED`.

    Many files are read by `processes` (one per core when None); the result does not depend on it. Slices of the header
    family with wrong intercepts are decoded, to see whether they are repaired. Raises `IchxError` where `source` is no
    folder or has no files.
    """
    files = find_files(source)
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    workers = processes or (os.cpu_count() or 1 if len(files) >= PARALLEL_FROM else 1)
    frames, done = [], 0
    for records in _map(partial(read_records, source), chunks, workers):
        frames.append(_frame(records))
        done += len(records)
        if progress is not None:
            progress(done, len(files))
    return pd.concat(frames, ignore_index=True)


def find_files(source: Path) -> list[str]:
    """Return the files under `source` as sorted POSIX paths relative to it.

    Hidden files and folders and DICOMDIR are passed over; links to folders are followed, each folder once. Raises
    `IchxError` where `source` is no folder, cannot be read, or has no files.
    """
    if not source.exists():
        raise IchxError(f"there is no folder {source}", "give the path of a folder with DICOM files")
    if not source.is_dir():
        raise IchxError(f"{source} is a file, not a folder", "give a folder; unpack an archive first")
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        parent = Path(folder).relative_to(source)
        found += [(parent / n).as_posix() for n in names if not n.startswith(".") and n.upper() != "DICOMDIR"]
    if not found:
        raise IchxError(f"{source} has no files", "give the folder that holds the DICOM files")
    return sorted(found)


def file_stem(file: str) -> str:
    """Return the file's name without its extension; what follows a UID's last dot is none."""
    return re.sub(r"\.[A-Za-z]\w*$", "", file.rpartition("/")[2])


def read_records(source: Path, files: list[str]) -> list[Record]:
    """Return a record for each of `files` under `source`, in their order."""
    return [_record(source, file) for file in files]


def _record(source: Path, file: str) -> Record:
    path = source / file
    size, mtime = 0, 0
    try:
        status = path.stat()
        size, mtime = status.st_size, status.st_mtime_ns
        headers = read_headers(path)
        if len(headers) > 1:
            raise DicomDefectError("multi_frame", f"{len(headers)} frames")
        header, repaired = headers[0], False
        if header.intercept_suspect:
            decoded = read_slice(path)
            header, repaired = decoded.header, decoded.repaired
    except OSError:
        return (file, size, mtime, *_NOTHING, "unreadable")
    except DicomDefectError as defect:
        return (file, size, mtime, *_NOTHING, defect.reason)
    return (file, size, mtime, *_values(header, repaired), "")


def _values(header: SliceHeader, repaired: bool) -> Record:
    return (
        header.slice_id,
        header.patient_id,
        header.study_id,
        header.series_id,
        -1 if header.instance_number is None else header.instance_number,
        header.rows,
        header.columns,
        *(header.spacing or (NAN,) * 2),
        *(header.position or (NAN,) * 3),
        *(header.orientation or (NAN,) * 6),
        *header.window,
        header.window_missing,
        header.slope,
        header.intercept,
        header.bits_stored,
        header.signed,
        repaired,
        header.transfer_syntax,
    )


_NOTHING: Final[Record] = (
    *("", "", "", "", -1, 0, 0),
    *(NAN,) * 11,
    *(NAN, NAN, False, NAN, NAN, 0, False, False, ""),
)


def _frame(records: list[Record]) -> pd.DataFrame:
    columns = dict(zip(SCANNED, zip(*records, strict=True), strict=True))
    return pd.DataFrame(
        {name: pd.Series(np.array(values, object)).astype(SCANNED[name]) for name, values in columns.items()}
    )


def _map(work: Callable[[list[str]], list[Record]], chunks: list[list[str]], processes: int) -> Iterator[list[Record]]:
    if processes == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, chunks)
