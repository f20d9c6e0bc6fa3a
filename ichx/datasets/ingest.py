"""Reading the headers of a source: one record per slice, or per excluded file with its defect.

Duplicates, the order in a series and everything else that needs the complete dataset is in `catalog`.
"""

import re
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pandas as pd

from ichx.ct.acquisition import Acquisition
from ichx.ct.dicom import DicomDefectError, SliceHeader, read_headers, read_slice
from ichx.datasets.file_list import FileLocation, list_files
from ichx.datasets.volumes import SUFFIX, checked_headers, volume_names
from ichx.datasets.zip_archive import MemberStream
from ichx.errors import InvalidInputError
from ichx.worker_pool import map_in_processes, worker_count

ProgressCallback = Callable[[int, int], None]
"""Receives (done, total)."""

CHUNK: Final = 512
"""Files per job."""

VOLUME_CHUNK: Final = 4
"""NIfTI volumes per job."""

PARALLEL_FROM: Final = 4_000
"""Number of files from which worker processes are faster."""

TEXT: Final[Any] = pd.Series(["text"]).dtype
"""The dtype of strings, which depends on the version of pandas."""

ACQUISITION: Final[dict[str, Any]] = {
    field.name: "float32" if field.type in (float, "float") else TEXT for field in fields(Acquisition)
}
"""Columns of the acquisition fields."""

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
    "assumptions": TEXT,
    "image_type": TEXT,
    **ACQUISITION,
    "defect": TEXT,
    "detail": TEXT,
}
"""Columns of a scan and their dtypes. Missing values: empty strings, NaN, 0, and -1 for the instance number."""

Record = tuple[object, ...]

NAN = float("nan")


@dataclass(frozen=True)
class ScanJob:
    """Read the headers of consecutive files, the first of which has the number `start`."""

    start: int
    names: tuple[str, ...]
    locations: tuple[FileLocation, ...]
    volumes: tuple[str, ...]
    """Names of the files as NIfTI volumes."""


def scan_source(
    source: Path, *, include: str = "", progress: ProgressCallback | None = None, processes: int | None = None
) -> pd.DataFrame:
    """Return one row per slice or excluded file of `source`, sorted by name, with the columns of `SCANNED`.

    Slices of the header family with wrong intercepts are decoded to determine whether they are repaired, and slices
    whose header does not say that they are HU to determine whether their values are.

    Args:
        source: See `list_files`.
        include: Regular expression that is found in the names of the files to read; all files if empty.
        progress: Receives (done, total) files.
        processes: Worker processes for many files; one per core when None. The result does not depend on it.

    Raises:
        IchxError: See `list_files`.
    """
    files = list_files(source).matching(include)
    total = len(files.names)
    if not total:
        raise InvalidInputError(f"{source} has no file with slices.", "Give the folder with the slices.")
    volumes = volume_names(files.names)
    # All values of a volume are read, but of another file the header only.
    many = sum(bool(SUFFIX.search(name)) for name in files.names) > total // 2
    chunk, parallel_from = (VOLUME_CHUNK, 4 * VOLUME_CHUNK) if many else (CHUNK, PARALLEL_FROM)
    workers = worker_count(processes or (None if total >= parallel_from else 1), -(-total // chunk))
    chunks = (slice(start, min(start + chunk, total)) for start in range(0, total, chunk))
    jobs = (
        ScanJob(c.start, tuple(files.names[c]), tuple(map(files.locate, range(c.start, c.stop))), tuple(volumes[c]))
        for c in chunks
    )
    frames: dict[int, pd.DataFrame] = {}
    done = 0
    for start, count, frame in map_in_processes(scan_chunk, jobs, workers):
        frames[start] = frame
        done += count
        if progress is not None:
            progress(done, total)
    return pd.concat([frames.pop(start) for start in sorted(frames)], ignore_index=True)


def scan_chunk(job: ScanJob) -> tuple[int, int, pd.DataFrame]:
    """Return the job's `start`, its number of files, and their rows."""
    records = [
        record
        for name, location, volume in zip(job.names, job.locations, job.volumes, strict=True)
        for record in _records(name, location, volume)
    ]
    return job.start, len(job.names), _frame(records)


def file_stem(file: str) -> str:
    """Return the file's name without its extension; the last number of a UID is not an extension."""
    return re.sub(r"\.[A-Za-z]\w*$", "", file.rpartition("/")[2])


def _records(name: str, location: FileLocation, volume: str) -> list[Record]:
    size, mtime = 0, 0
    try:
        size, mtime = location.fingerprint()
        with location.open() as handle:
            return [(name, size, mtime, *_record(handle, header)) for header in _headers(handle, name, volume)]
    except OSError as error:
        reason, detail = "unreadable", error.strerror or str(error)
    except DicomDefectError as defect:
        reason, detail = defect.reason, defect.detail
    return [(name, size, mtime, 0, *_MISSING, reason, detail)]


def _headers(handle: BinaryIO, name: str, volume: str) -> list[SliceHeader]:
    try:
        found = checked_headers(handle, volume or Path(name).name)
        return _proven(handle, read_headers(handle)) if found is None else found
    except DicomDefectError as defect:
        # The damage of a zip's member is the cause of what the parser reports.
        fault = handle.fault if isinstance(handle, MemberStream) else None
        raise fault or defect from defect


def _proven(handle: BinaryIO, headers: list[SliceHeader]) -> list[SliceHeader]:
    """Return the headers of a file's frames; those that only their values can prove to be HU follow the middle one."""
    unproven = [header for header in headers if header.frame and header.unproven and not header.defect]
    if not unproven:
        return headers
    try:
        handle.seek(0)
        read_slice(handle, unproven[len(unproven) // 2].frame)
    except DicomDefectError as found:
        if found.reason in ("bad_rescale", "not_hu"):
            refused = {header.frame for header in unproven}
            return [
                replace(header, defect=found.reason, detail=found.detail) if header.frame in refused else header
                for header in headers
            ]
    return headers


def _record(handle: BinaryIO, header: SliceHeader) -> Record:
    """Return the columns of a frame, from `frame` on."""
    reason, detail, repaired = header.defect, header.detail, False
    if not reason and (header.intercept_suspect or (header.unproven and header.frame == 0)):
        try:
            handle.seek(0)
            decoded = read_slice(handle, header.frame)
            header, repaired = decoded.header, decoded.repaired
        except DicomDefectError as defect:
            reason, detail = defect.reason, defect.detail
    if reason:
        return (header.frame, *_MISSING, reason, detail)
    return (
        header.frame,
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
        " ".join(header.assumptions),
        header.image_type,
        *astuple(header.acquisition),
        "",
        "",
    )


_MISSING: Final[Record] = (
    *("", "", "", "", -1, 0, 0),
    *(NAN,) * 11,
    *(NAN, NAN, False, NAN, NAN, 0, False, False, "", "", ""),
    *astuple(Acquisition()),
)


def _frame(records: list[Record]) -> pd.DataFrame:
    columns = dict(zip(SCANNED, zip(*records, strict=True), strict=True))
    return pd.DataFrame(
        {name: pd.Series(np.array(values, object)).astype(SCANNED[name]) for name, values in columns.items()}
    )
