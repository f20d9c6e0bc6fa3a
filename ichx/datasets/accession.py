"""AccessionNumbers of files, read only to match a spreadsheet of labels: they are never stored."""

import warnings
from pathlib import Path
from typing import Final

import pandas as pd
import pydicom
from pydicom.errors import InvalidDicomError

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.file_list import FileLocation, list_files

ACCESSION_NUMBER: Final = 0x00080050
"""Tag of the element, the last one that is read."""


def read_accession_numbers(source: Path, scan: pd.DataFrame) -> "pd.Series[str]":
    """Return the AccessionNumber of each row of `scan`, empty where it is missing.

    One file of each series is read, as an AccessionNumber is that of a study.

    Args:
        source: What was scanned.
        scan: Result of `scan_source`.

    Raises:
        IchxError: See `list_files`.
    """
    files = list_files(source)
    number = {name: place for place, name in enumerate(files.names)}
    good = scan[scan["defect"] == ""]
    keys = good["study_id"] + " " + good["series_id"]
    keys = keys.where(keys != " ", good["file"])
    found: dict[str, str] = {}
    for key, file in zip(keys, good["file"], strict=True):
        if key not in found and (place := number.get(file)) is not None:
            found[key] = _read(files.locate(place))
    numbers = keys.map(found).fillna("")
    return numbers.reindex(scan.index, fill_value="")


def _read(location: FileLocation) -> str:
    try:
        with location.open() as handle, warnings.catch_warnings(action="ignore"):
            header = pydicom.dcmread(handle, stop_before_pixels=True, specific_tags=[ACCESSION_NUMBER], force=True)
    except (OSError, InvalidDicomError, DicomDefectError, ValueError, EOFError):
        return ""
    return str(header.get("AccessionNumber", "") or "").strip()
