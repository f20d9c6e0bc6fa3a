"""The patient's sides in the images of slices, from the headers of their files: a catalog has no orientation."""

from pathlib import Path
from typing import TYPE_CHECKING

from ichx.ct.defects import DicomDefectError
from ichx.ct.geometry import image_sides
from ichx.datasets.sources import SourceFile, SourceFiles
from ichx.datasets.volumes import file_headers
from ichx.errors import IchxError

if TYPE_CHECKING:
    import pandas as pd

Sides = tuple[str, str]
"""The sides at the left and the right edge of an image, `R` or `L`."""


def read_image_sides(source: Path, slices: "pd.DataFrame") -> list[Sides | None]:
    """Return the sides of each of `slices`, rows of a catalog of `source`.

    None where the orientation is unknown: the header has none, or the file was removed or changed.
    """
    try:
        files = SourceFiles(source, slices).select(range(len(slices)))
    except IchxError:
        return [None] * len(slices)
    return [sides_of(file) for file in files]


def sides_of(file: SourceFile) -> Sides | None:
    """Return the sides of a slice; None if they are unknown."""
    try:
        if file.location.fingerprint() != (file.bytes, file.mtime_ns):
            return None
        with file.location.open() as handle:
            headers = file_headers(handle)
    except (OSError, DicomDefectError, IchxError):
        return None
    found = next((header for header in headers if header.frame == file.frame), None)
    return None if found is None else image_sides(found.orientation)
