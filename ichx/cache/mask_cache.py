"""Builds the masks that fit an HU cache; `mask_file` reads them. `ichx.datasets.masks` reads what users attach."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import MaskCache, masks_path
from ichx.cache.resize import Spacing, crop_field, fit_mask, pixel_spacings
from ichx.cache.series_centres import rows_of_same_series, series_centres
from ichx.cache.shards import pack, write_shard
from ichx.cache.sharing import build_once
from ichx.ct.dicom import DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.mask_png import decode_mask
from ichx.datasets.masks import known_masks
from ichx.datasets.sources import SourceFile, SourceFiles, read_source_slice
from ichx.files import remove_drafts, write_error
from ichx.worker_pool import map_in_processes, worker_count

CHUNK: Final = 256
"""Masks per job."""


@dataclass(frozen=True)
class MaskCacheJob:
    """Centre, resize and pack the masks `pngs`."""

    start: int
    size: int
    centre: str
    pngs: tuple[bytes, ...]
    files: tuple[SourceFile, ...] = ()
    """The slices of the masks, if `centre` is `slice`."""
    centres: tuple[tuple[float, float], ...] = ()
    """The centre of the series of each mask (row, column), if `centre` is `series`."""
    field: float = 0.0
    """Edge in mm of the square that is cached; 0 for the complete image."""
    spacings: tuple[Spacing, ...] = ()
    """Pixel spacing of each mask, if there is a field."""


def ensure_masks(
    cache: Cache,
    masks: Mapping[int, bytes],
    digest: str,
    source: Path,
    slices: pd.DataFrame,
    *,
    progress: ProgressCallback | None = None,
) -> MaskCache:
    """Return the masks that fit `cache`, built on first use.

    Args:
        cache: The cache of `slices`.
        masks: PNG files by row.
        digest: Digest of `masks`.
        source: Folder or zip of the slices. They are decoded again if heads are centred.
        slices: Rows of the dataset.
        progress: Receives (done, total) slices.

    Raises:
        StorageError: The file cannot be written or read.
        ChangedDataError: A file has changed since the dataset was added.
    """
    rows = np.array(sorted(masks), np.int64)
    path = masks_path(cache.folder, digest)
    known = known_masks(slices, rows)

    def open_file() -> MaskCache | None:
        try:
            return MaskCache(path, cache.spec.size, rows, known)
        except (FileNotFoundError, ValueError):
            return None  # missing or damaged

    def build() -> None:
        write_shard(path, _pack_masks(cache, masks, source, slices, progress), {})

    try:
        if (opened := open_file()) is not None:
            return opened
        remove_drafts(cache.folder)
        build_once(path, lambda: open_file() is not None, build)
        return MaskCache(path, cache.spec.size, rows, known)
    except OSError as error:
        raise write_error(path, "the masks", error) from error


def pack_masks(job: MaskCacheJob) -> tuple[int, list[bytes]]:
    """Return `job.start` and the masks of `job`, centred, resized and packed."""
    packed = []
    for index, png in enumerate(job.pngs):
        mask = decode_mask(png)
        if job.centre == "slice":
            try:
                mask = shift_to_centre(mask, head_centre(read_source_slice(job.files[index]).hu), 0)
            except DicomDefectError:
                mask = np.zeros_like(mask)  # a defect of the cache, which is never read
        elif job.centre == "series" and np.isfinite(job.centres[index]).all():
            mask = shift_to_centre(mask, job.centres[index], 0)
        if job.field:
            mask = crop_field(mask, job.field, job.spacings[index], 0)
        packed.append(pack(fit_mask(mask, job.size).astype(np.int16)))
    return job.start, packed


def _pack_masks(
    cache: Cache,
    masks: Mapping[int, bytes],
    source: Path,
    slices: pd.DataFrame,
    progress: ProgressCallback | None,
) -> list[bytes]:
    spec = cache.spec
    rows = np.array(sorted(masks), np.int64)
    starts = range(0, len(rows), CHUNK)
    workers = worker_count(None, len(starts))
    first_pass = rows_of_same_series(slices, rows) if spec.centre == "series" else rows[:0]
    done, total = 0, len(rows) + len(first_pass)

    def advance(by: int) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(done, total)

    advance(0)
    files = None if spec.centre == "none" else SourceFiles(source, slices)
    centres = None
    if files is not None and spec.centre == "series":
        centres = series_centres(files, slices, first_pass, workers, advance)

    def job(start: int) -> MaskCacheJob:
        part = rows[start : start + CHUNK].tolist()
        return MaskCacheJob(
            start,
            spec.size,
            spec.centre,
            tuple(masks[row] for row in part),
            files.select(part) if files is not None and centres is None else (),
            () if centres is None else tuple((row, column) for row, column in centres[part].tolist()),
            spec.field,
            pixel_spacings(slices, part) if spec.field else (),
        )

    chunks: dict[int, list[bytes]] = {}
    for start, packed in map_in_processes(pack_masks, map(job, starts), workers):
        chunks[start] = packed
        advance(len(packed))
    return [chunk for start in starts for chunk in chunks[start]]
