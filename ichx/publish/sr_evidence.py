"""The DICOM instances that a structured report refers to: their ids, and the patient and study of the first one.

Nothing else in ichx reads names and dates. They are read here because a report belongs to its patient.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.file_list import FileLocation
from ichx.datasets.sources import SourceFiles
from ichx.errors import ChangedDataError, IchxError, InvalidInputError, UnsupportedError
from ichx.text import EXAMPLES, format_count, format_examples

UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""What each instance needs, besides a PatientID."""

_EMPTY: Final = (
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""May be empty in a report, but not absent."""
_UID: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
"""A UID of DICOM (PS3.5, 9.1), of at most 64 characters."""
_VOLUMES: Final = (".nii", ".nii.gz", ".hdr", ".img", ".nrrd", ".mha", ".png")


def check_evidence(source: Path, slices: pd.DataFrame) -> None:
    """Check before predicting that a structured report can refer to `slices`, rows of a catalog of `source`.

    Raises:
        UnsupportedError: Files are not DICOM.
        InvalidInputError: A file lacks an id, or has one that is no DICOM UID.
        ChangedDataError: A file cannot be read now.
    """
    names = pd.unique(slices["file"])
    if volumes := [str(name) for name in names if str(name).lower().endswith(_VOLUMES)]:
        raise UnsupportedError(
            f"{format_count(len(volumes), 'file')} not DICOM{format_examples(volumes[:EXAMPLES], len(volumes))}: "
            "a structured report refers to DICOM instances.",
            "Predict the DICOM files of these studies, or leave out --sr.",
        )
    problems: dict[str, list[str]] = {}
    for name, header in read_headers_of(source, slices, (*UIDS, "PatientID")):
        for problem in header_problems(header):
            problems.setdefault(problem, []).append(name)
    if problems:
        lines = [
            f"{format_count(len(files), 'file')}: {problem}{format_examples(files[:EXAMPLES], len(files))}."
            for problem, files in problems.items()
        ]
        raise InvalidInputError(
            "\n".join(["No structured report can refer to these files.", *lines]),
            "Use files with their original ids, or leave out --sr. Ids like those of RSNA 2019 are no DICOM UIDs.",
        )


def study_evidence(source: Path, slices: pd.DataFrame) -> dict[str, Any]:
    """Return the header of each file of one study by name, in the order of `slices`; raises like `check_evidence`.

    The first header has all values of patient and study, the others only ids. An invalid date, time or sex is empty.
    """
    found: dict[str, Any] = {}
    for name, header in read_headers_of(source, slices, (*UIDS, "PatientID")):
        found[name] = header
    first = next(iter(found))
    rows = slices[slices["file"] == first].head(1)
    ((_, complete),) = read_headers_of(source, rows, None)
    for keyword in _EMPTY:
        if keyword not in complete or not _is_valid(complete, keyword):
            setattr(complete, keyword, None)
    found[first] = complete
    return found


def read_headers_of(source: Path, slices: pd.DataFrame, tags: tuple[str, ...] | None) -> Iterator[tuple[str, Any]]:
    """Yield name and header of each file of `slices` once, with `tags` only; None for all up to the pixels."""
    rows = slices.drop_duplicates("file")
    for name, file in zip(rows["file"], SourceFiles(source, rows).select(range(len(rows))), strict=True):
        yield str(name), _read(file.location, tags)


def header_problems(header: Any) -> list[str]:
    """Return what keeps a structured report from referring to a file with this header."""
    found = []
    for keyword in UIDS:
        value = str(header.get(keyword) or "")
        if not value:
            found.append(f"without {keyword}")
        elif len(value) > 64 or not _UID.fullmatch(value):
            found.append(f"{keyword} is no DICOM UID")
    if not str(header.get("PatientID") or "").strip():
        found.append("without PatientID")
    return found


def _is_valid(header: Any, keyword: str) -> bool:
    """Return whether a date, time or sex is one; other values are not checked."""
    from pydicom.valuerep import DA, TM

    if keyword == "PatientSex":
        return header.PatientSex in (None, "", "M", "F", "O")
    try:
        kind = {"DA": DA, "TM": TM}.get(header[keyword].VR)
        if kind is not None:
            kind(header[keyword].value or None)
    except (ValueError, TypeError):  # of several values
        return False
    return True


def _read(location: FileLocation, tags: tuple[str, ...] | None) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with location.open() as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid values, which `header_problems` names
            wanted = None if tags is None else list(tags)
            header = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=wanted)
            for keyword in tags or ():
                header.get(keyword)  # converts the value, which warns of invalid ones
            return header
    except (OSError, DicomDefectError) as error:
        raise ChangedDataError(f"Cannot read {location}: {error}.", "Restore the file, and predict again.") from error
    except (InvalidDicomError, ValueError, AttributeError, KeyError, TypeError, EOFError) as error:
        raise _invalid(location, error) from error


def _invalid(location: FileLocation, error: Exception) -> IchxError:
    return InvalidInputError(f"Cannot read the header of {location}: {error}.", "Export or copy the file again.")
