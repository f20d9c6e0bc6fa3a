"""The work of building caches, a shard at a time, in worker processes: decode once; centre, resize, pack per size.

A job has plain arguments and may run twice. Not for deciding which shards are missing (`ichx.cache.build`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichx.cache.resize import fit_square
from ichx.cache.shards import pack, write_shard
from ichx.ct.dicom import AIR, DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.sources import SourceFile, read_source_slice

Centre = tuple[float, float]


@dataclass(frozen=True)
class Target:
    """A shard to be written to `path`, for a cache of `size` pixels, `centre` and `resize`."""

    path: str
    size: int
    centre: str
    resize: str


@dataclass(frozen=True)
class ShardJob:
    """Build the `targets` of one shard number from `files`, each decoded once.

    `centres` are given where a target has `series` centring, one per file; NaN for none.
    """

    files: tuple[SourceFile, ...]
    targets: tuple[Target, ...]
    centres: tuple[Centre, ...] = ()


@dataclass(frozen=True)
class CentresJob:
    """Find the head's centre in each of `files`, which are the catalog's `rows`."""

    rows: tuple[int, ...]
    files: tuple[SourceFile, ...]


def build_shards(job: ShardJob) -> int:
    """Write the shards of `job`; return its number of slices. What cannot be decoded is air, and noted as a defect."""
    chunks: list[list[bytes]] = [[] for _ in job.targets]
    defects: dict[int, str] = {}
    for row, file in enumerate(job.files):
        try:
            hu = read_source_slice(file).hu
        except DicomDefectError as defect:
            defects[row] = defect.reason
            for target, packed in zip(job.targets, chunks, strict=True):
                packed.append(pack(np.full((target.size, target.size), AIR, np.int16)))
            continue
        centred = {"none": hu}
        for target, packed in zip(job.targets, chunks, strict=True):
            if target.centre not in centred:
                centre = head_centre(hu) if target.centre == "slice" else job.centres[row]
                centred[target.centre] = shift_to_centre(hu, centre)
            packed.append(pack(fit_square(centred[target.centre], target.size, target.resize)))
    for target, packed in zip(job.targets, chunks, strict=True):
        write_shard(Path(target.path), packed, defects)
    return len(job.files)


def find_centres(job: CentresJob) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Return the rows of `job` and their head centres (k, 2), (row, column) in pixels; NaN where decoding fails."""
    centres = np.full((len(job.files), 2), np.nan)
    for index, file in enumerate(job.files):
        try:
            centres[index] = head_centre(read_source_slice(file).hu)
        except DicomDefectError:
            continue  # the shard names it
    return job.rows, centres
