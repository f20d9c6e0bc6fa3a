"""The catalog of files to predict. Unlike that of a dataset, it has the ids of refused files."""

from pathlib import Path
from typing import Final

import pandas as pd

from ichx.ct.dicom import DicomDefectError, read_ids
from ichx.datasets.add import require_usable_slices
from ichx.datasets.catalog import build_catalog
from ichx.datasets.ingest import ProgressCallback, scan_source
from ichx.datasets.sources import SourceFiles

IDS: Final = ("slice_id", "patient", "study", "series")
"""Columns of the ids in a catalog."""

_SCANNED_IDS: Final = ("slice_id", "patient_id", "study_id", "series_id")


def catalog_files(source: Path, key: bytes | None, progress: ProgressCallback) -> pd.DataFrame:
    """Return the catalog of the files in `source`; see `ichx.datasets.catalog.build_catalog`.

    A refused file has the ids in its header, as far as they can be read.

    Args:
        source: A file, a folder, a zip, or a folder in a zip.
        key: Key of the hashes of patient, study and series ids; None keeps the ids.
        progress: Receives (done, total) files.

    Raises:
        CorruptFileError: No file is a usable slice.
    """
    scan = scan_source(source, progress=progress)
    catalog, _ = build_catalog(scan, key)
    require_usable_slices(source, catalog)
    nameless = scan[(scan["defect"] != "") & ~scan["defect"].isin(["not_dicom", "unreadable"])]
    ids = _refused_ids(source, nameless)
    if len(ids):
        # Built again as if these files were slices, so that the same rules say which study and series are theirs.
        named = scan.copy()
        named.loc[ids.index, [*_SCANNED_IDS, "defect"]] = ids.assign(defect="")
        every, _ = build_catalog(named, key)
        catalog.loc[ids.index, list(IDS)] = every.loc[ids.index, list(IDS)]
    return catalog


def _refused_ids(source: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the ids of those of `rows`, refused files or frames, that name their study or series."""
    found: dict[int, tuple[str, ...]] = {}
    opened: tuple[str, tuple[str, ...]] = "", ()
    files = SourceFiles(source, rows).select(range(len(rows)))
    for index, name, frame, file in zip(rows.index, rows["file"], rows["frame"], files, strict=True):
        if name != opened[0]:
            try:
                with file.location.open() as handle:
                    opened = name, read_ids(handle)
            except (OSError, DicomDefectError):
                opened = name, ()
        slice_id, *others = opened[1] or ("", "")
        if any(others[1:]):
            found[index] = (f"{slice_id}#{frame}" if slice_id and frame else slice_id, *others)
    return pd.DataFrame.from_dict(found, orient="index", columns=list(_SCANNED_IDS))
