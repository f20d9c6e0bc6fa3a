"""Jobs that build shards in worker processes: decode each slice once, then centre, resize and pack it per size.

A job has plain arguments and may run twice. `ichx.cache.build` decides which shards are missing.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.resize import Spacing, crop_field, fit_square
from ichx.cache.shards import is_intact, pack, write_shard
from ichx.cache.sharing import claim
from ichx.ct.dicom import AIR, DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.sources import SourceFile, read_source_slice

Centre = tuple[float, float]
"""Row and column in pixels."""


@dataclass(frozen=True)
class ShardJob:
    """Build the shards with one number of several caches from the same files."""

    number: int
    files: tuple[SourceFile, ...]
    targets: tuple[tuple[Path, CacheSpec], ...]
    """Path and spec of each shard."""
    centres: tuple[Centre, ...] = ()
    """Centre of the series of each file, NaN if unknown; needed if a target has `series` centring."""
    ignore_claims: bool = False
    spacings: tuple[Spacing, ...] = ()
    """Pixel spacing of each file; needed if a target has a field in mm."""


def build_shards(job: ShardJob) -> tuple[int, bool]:
    """Write the shards of `job`, except those that another process builds; return its number and whether that was all.

    A slice that cannot be decoded is air and a defect.
    """
    with ExitStack() as claims:
        claimed = [t for t in job.targets if claims.enter_context(claim(t[0], ignore=job.ignore_claims))]
        if targets := [target for target in claimed if not is_intact(target[0])]:
            _build(job, targets)
    return job.number, len(claimed) == len(job.targets)


def _build(job: ShardJob, targets: Sequence[tuple[Path, CacheSpec]]) -> None:
    chunks: list[list[bytes]] = [[] for _ in targets]
    defects: dict[int, str] = {}
    for row, file in enumerate(job.files):
        try:
            hu = read_source_slice(file).hu
        except DicomDefectError as defect:
            defects[row] = defect.reason
            for (_, spec), packed in zip(targets, chunks, strict=True):
                packed.append(pack(np.full((spec.size, spec.size), AIR, np.int16)))
            continue
        centred = {"none": hu}
        for (_, spec), packed in zip(targets, chunks, strict=True):
            if spec.centre not in centred:
                centre = head_centre(hu) if spec.centre == "slice" else job.centres[row]
                centred[spec.centre] = shift_to_centre(hu, centre)
            image = centred[spec.centre]
            if spec.field:
                image = crop_field(image, spec.field, job.spacings[row])
            packed.append(pack(fit_square(image, spec.size, spec.resize)))
    for (path, _), packed in zip(targets, chunks, strict=True):
        write_shard(path, packed, defects)
