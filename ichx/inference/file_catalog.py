"""The catalog of files to predict. Unlike that of a dataset, it has the ids of refused files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from ichx.ct.dicom import DicomDefectError, read_ids
from ichx.datasets.catalog import build_catalog
from ichx.datasets.ingest import ProgressCallback, scan_source
from ichx.datasets.sources import SourceFiles

HASHED: Final = ("patient", "study", "series")
"""Columns of a catalog with keyed hashes of ids."""

_SCANNED_IDS: Final = ("slice_id", "patient_id", "study_id", "series_id")


@dataclass(frozen=True)
class ScannedFiles:
    """The headers of files, and the ids of refused ones as far as their headers can be read."""

    scan: pd.DataFrame
    """Result of `scan_source`."""
    refused: pd.DataFrame
    """Ids of refused files or frames, by row of `scan`."""

    def catalog(self, key: bytes | None) -> pd.DataFrame:
        """Return the catalog with hashed ids, or with the ids themselves if `key` is None; see `build_catalog`."""
        catalog, _ = build_catalog(self.scan, key)
        rows = self.refused.index
        if len(rows):
            # Built again as if these files were slices, so that the same rules say which study and series are theirs.
            named = self.scan.copy()
            named.loc[rows, [*_SCANNED_IDS, "defect"]] = self.refused.assign(defect="")
            every, _ = build_catalog(named, key)
            catalog.loc[rows, ["slice_id", *HASHED]] = every.loc[rows, ["slice_id", *HASHED]]
        return catalog

    def id_map(self, key: bytes) -> pd.DataFrame:
        """Return the id behind each hash: columns `kind` (`patient`, `study`, `series`), `hash`, `id`."""
        hashes, ids = self.catalog(key), self.catalog(None)
        pairs = [pd.DataFrame({"kind": kind, "hash": hashes[kind], "id": ids[kind]}) for kind in HASHED]
        found = pd.concat(pairs, ignore_index=True).drop_duplicates(ignore_index=True)
        return found[found["hash"] != ""].reset_index(drop=True)


def scan_files(source: Path, progress: ProgressCallback) -> ScannedFiles:
    """Return the headers of the files in `source`: a file, a folder, a zip, or a folder in a zip.

    Raises `IchxError` if `source` cannot be read. `progress` receives (done, total) files.
    """
    scan = scan_source(source, progress=progress)
    nameless = scan[(scan["defect"] != "") & ~scan["defect"].isin(["not_dicom", "unreadable"])]
    return ScannedFiles(scan, _refused_ids(source, nameless))


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
