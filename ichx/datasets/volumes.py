"""NIfTI volumes among the files of a source: their names, and their slices, for which a volume is read once."""

import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, Final, Protocol

from ichx.ct.dicom import DecodedSlice, SliceHeader, read_headers
from ichx.ct.nifti import Volume, is_nifti, read_volume, read_volume_header

SUFFIX: Final = re.compile(r"\.nii(?:\.gz)?$", re.IGNORECASE)
"""Ends of the names of NIfTI files."""


class Openable(Protocol):
    """Where a file is; hashable."""

    def open(self) -> BinaryIO:
        """Return the content as a seekable stream."""

    def __hash__(self) -> int:
        """Return the hash of the place."""


def volume_names(files: Sequence[str]) -> list[str]:
    """Return the name of the volume that each of `files` would be, the start of its slice ids.

    It is the name of the file without suffix, with the folders above it as far as needed to distinguish volumes, joined
    by `_`. Names of files with another suffix are empty: they are not volumes.
    """
    parts = [
        SUFFIX.sub("", name).split("/") if SUFFIX.search(name) or "." not in name.rpartition("/")[2] else []
        for name in files
    ]
    deepest = max(map(len, parts), default=0)
    names = [""] * len(files)
    for depth in range(1, deepest + 1):
        names = ["_".join(part[-depth:]) for part in parts]
        if max(Counter(filter(None, names)).values(), default=0) <= 1:
            break
    return names


def file_headers(handle: BinaryIO) -> list[SliceHeader]:
    """Return the header of each slice of a DICOM or NIfTI file, without decoding.

    Those of a NIfTI lack the name of the volume. Raises `OSError`, and `DicomDefectError` for the complete file.
    """
    if not is_nifti(handle):
        return read_headers(handle)
    header = read_volume_header(handle)
    return [header.slice_header(frame, "") for frame in range(1, header.count + 1)]


def checked_headers(handle: BinaryIO, volume: str) -> list[SliceHeader] | None:
    """Return the headers of a NIfTI file that was read and is a CT; None for another kind of file.

    Raises like `file_headers`, also if the values are truncated or not HU.
    """
    if not is_nifti(handle):
        return None
    found = read_volume(handle)
    found.require_ct()
    return [found.header.slice_header(frame, volume) for frame in range(1, found.header.count + 1)]


def read_volume_slice(location: Openable, fingerprint: tuple[int, int], frame: int) -> DecodedSlice | None:
    """Return a slice, from 1, of the NIfTI file at `location`; None for another kind of file.

    The last volume stays in memory, until a slice of another file is read. Raises like `read_volume`.
    """
    with _LOCK:
        volume = _last_volume(location, fingerprint)
    return None if volume is None else volume.read_slice(frame)


@lru_cache(maxsize=1)
def _last_volume(location: Openable, _fingerprint: tuple[int, int]) -> Volume | None:
    _last_volume.cache_clear()  # the memory of the previous volume is free before the next one is read
    with location.open() as handle:
        return read_volume(handle) if is_nifti(handle) else None


_LOCK = threading.Lock()
"""Threads that need the same volume do not read it at once."""


def _unlock_in_child() -> None:
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_unlock_in_child)
