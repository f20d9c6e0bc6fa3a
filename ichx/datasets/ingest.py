"""The files of a source to one record per slice: what its header says, or the defect for which its file is refused.

Not for what needs the whole dataset: duplicates, order in a series, labels (`ichx.datasets.catalog`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pandas as pd

from ichx.ct.dicom import DicomDefectError, SliceHeader, read_headers, read_slice
from ichx.datasets.sources import Place, fingerprint, list_files, open_place
from ichx.datasets.zip_archive import MemberStream
from ichx.worker_pool import run_jobs, worker_count

Progress = Callable[[int, int], None]
"""Is told (done, total)."""

CHUNK: Final = 512
"""Files that a process reads before it reports."""

PARALLEL_FROM: Final = 4_000
"""Number of files from which starting processes pays."""

TEXT: Final[Any] = pd.Series(["text"]).dtype
"""The type that this pandas gives to texts."""

SCANNED: Final[dict[str, Any]] = {
    "file": TEXT,
    "bytes": "int64",
    "mtime_ns": "int64",
    "frame": "int32",
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


@dataclass(frozen=True)
class ScanJob:
    """Read the headers of the files `names` at `places`, which are those from number `start` on."""

    start: int
    names: tuple[str, ...]
    places: tuple[Place, ...]


def scan_source(source: Path, *, progress: Progress | None = None, processes: int | None = None) -> pd.DataFrame:
    """Return one row per slice or refused file of `source` (see `list_files`), by name, with the columns of `SCANNED`.

    Many files are read by `processes` (one per core when None); the result does not depend on it. Slices of the header
    family with wrong intercepts are decoded, to see whether they are repaired. `progress` is told files. Raises
    `IchxError` where `source` cannot be read or has no files.
    """
    files = list_files(source)
    total = len(files.names)
    workers = worker_count(processes or (None if total >= PARALLEL_FROM else 1), -(-total // CHUNK))
    jobs = (
        ScanJob(start, tuple(files.names[start : start + CHUNK]), tuple(map(files.place, _numbers(start, total))))
        for start in range(0, total, CHUNK)
    )
    frames: dict[int, pd.DataFrame] = {}
    done = 0
    for start, read, frame in run_jobs(scan_chunk, jobs, workers):
        frames[start] = frame
        done += read
        if progress is not None:
            progress(done, total)
    return pd.concat([frames.pop(start) for start in sorted(frames)], ignore_index=True)


def scan_chunk(job: ScanJob) -> tuple[int, int, pd.DataFrame]:
    """Return the job's `start`, its number of files, and their rows."""
    records = [record for name, place in zip(job.names, job.places, strict=True) for record in _records(name, place)]
    return job.start, len(job.names), _frame(records)


def file_stem(file: str) -> str:
    """Return the file's name without its extension; what follows a UID's last dot is none."""
    return re.sub(r"\.[A-Za-z]\w*$", "", file.rpartition("/")[2])


def _numbers(start: int, total: int) -> range:
    return range(start, min(start + CHUNK, total))


def _records(name: str, place: Place) -> list[Record]:
    size, mtime = 0, 0
    try:
        size, mtime = fingerprint(place)
        with open_place(place) as handle:
            return [(name, size, mtime, *_record(handle, header)) for header in _headers(handle)]
    except OSError:
        reason = "unreadable"
    except DicomDefectError as defect:
        reason = defect.reason
    return [(name, size, mtime, 0, *_NOTHING, reason)]


def _headers(handle: BinaryIO) -> list[SliceHeader]:
    try:
        return read_headers(handle)
    except DicomDefectError as defect:
        # What is wrong with a zip's member comes first: the parser has only seen that it broke off.
        fault = handle.fault if isinstance(handle, MemberStream) else None
        raise fault or defect from defect


def _record(handle: BinaryIO, header: SliceHeader) -> Record:
    """Return the columns from `frame` on of one frame."""
    reason, repaired = header.defect, False
    if not reason and header.intercept_suspect:
        try:
            handle.seek(0)
            decoded = read_slice(handle, header.frame)
            header, repaired = decoded.header, decoded.repaired
        except DicomDefectError as defect:
            reason = defect.reason
    if reason:
        return (header.frame, *_NOTHING, reason)
    return (header.frame, *_values(header, repaired), "")


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
