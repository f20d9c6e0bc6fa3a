"""Jobs that build shards in worker processes: decode each slice once, then centre, resize and pack it per size.

A job has plain arguments and may run twice. `ichx.cache.build` decides which shards are missing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.resize import fit_square
from ichx.cache.shards import pack, write_shard
from ichx.ct.dicom import AIR, DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.sources import SourceFile, read_source_slice

Centre = tuple[float, float]
"""Row and column in pixels."""


@dataclass(frozen=True)
class ShardJob:
    """Build the shards with one number of several caches from the same files."""

    files: tuple[SourceFile, ...]
    targets: tuple[tuple[Path, CacheSpec], ...]
    """Path and spec of each shard."""
    centres: tuple[Centre, ...] = ()
    """Centre of the series of each file, NaN if unknown; needed if a target has `series` centring."""


@dataclass(frozen=True)
class CentresJob:
    """Find the centre of the head in each of `files`, the files of `rows`."""

    rows: tuple[int, ...]
    files: tuple[SourceFile, ...]


def build_shards(job: ShardJob) -> int:
    """Write the shards of `job` and return its number of slices. A slice that cannot be decoded is air and a defect."""
    chunks: list[list[bytes]] = [[] for _ in job.targets]
    defects: dict[int, str] = {}
    for row, file in enumerate(job.files):
        try:
            hu = read_source_slice(file).hu
        except DicomDefectError as defect:
            defects[row] = defect.reason
            for (_, spec), packed in zip(job.targets, chunks, strict=True):
                packed.append(pack(np.full((spec.size, spec.size), AIR, np.int16)))
            continue
        centred = {"none": hu}
        for (_, spec), packed in zip(job.targets, chunks, strict=True):
            if spec.centre not in centred:
                centre = head_centre(hu) if spec.centre == "slice" else job.centres[row]
                centred[spec.centre] = shift_to_centre(hu, centre)
            packed.append(pack(fit_square(centred[spec.centre], spec.size, spec.resize)))
    for (path, _), packed in zip(job.targets, chunks, strict=True):
        write_shard(path, packed, defects)
    return len(job.files)


def find_centres(job: CentresJob) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Return the rows of `job` and their head centres (k, 2), row and column in pixels; NaN if decoding fails."""
    centres = np.full((len(job.files), 2), np.nan)
    for index, file in enumerate(job.files):
        try:
            centres[index] = head_centre(read_source_slice(file).hu)
        except DicomDefectError:
            continue  # `build_shards` records the defect
    return job.rows, centres
