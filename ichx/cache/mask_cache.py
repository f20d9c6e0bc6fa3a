"""A dataset's masks as a recipe sees its slices: centred and resized like them, in one file beside the HU cache.

Only what somebody has drawn is in it; a negative slice's empty mask takes no room. Not for reading what people attach
(`ichx.datasets.masks`) or for augmentation (`ichx.loading.loader`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import Progress, series_centres, series_mates
from ichx.cache.hu_cache import Cache
from ichx.cache.resize import fit_mask
from ichx.cache.shards import ShardFiles, pack, read_table, unpack, write_shard
from ichx.ct.dicom import DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.masks import decode_mask, known_masks
from ichx.datasets.sources import SourceFile, SourceFiles, read_source_slice
from ichx.errors import IchxError
from ichx.worker_pool import run_jobs, worker_count

MASK_FORMAT: Final = 1
"""Raised whenever the same masks and slices would give another file."""

CHUNK: Final = 256
"""Masks that a process prepares at a time."""


class MaskCache:
    """The masks of a dataset's slices at the size of a cache, open for reading. May be pickled to worker processes.

    `known` (n,) bool: of which slices there is a mask, be it an empty one.
    """

    def __init__(self, path: Path, size: int, rows: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> None:
        """Open the file at `path`, which has the masks of `rows`, rising, at `size` pixels.

        Raises `OSError`, or `ValueError` where it is damaged.
        """
        self.path, self.size, self.known, self._rows = path, size, known, rows
        self._places = read_table(path).places
        if len(self._places) != len(rows):
            raise ValueError(f"{path} has {len(self._places)} masks instead of {len(rows)}")
        self._files = ShardFiles([path])

    def __reduce__(self) -> tuple[type["MaskCache"], tuple[Path, int, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
        return type(self), (self.path, self.size, self._rows, self.known)

    def read(self, row: int) -> npt.NDArray[np.uint8] | None:
        """Return the mask of slice `row`, (size, size) uint8, or None where nobody has drawn one.

        What None means is in `known`. Raises `IchxError` when the stored bytes are damaged or gone.
        """
        place = int(np.searchsorted(self._rows, row))
        if place == len(self._rows) or self._rows[place] != row:
            return None
        offset, length, checksum = self._places[place].tolist()
        image = np.empty((self.size, self.size), np.int16)
        try:
            unpack(self._files.read(0, offset, length), checksum, image)
        except (OSError, ValueError, RuntimeError) as error:
            raise IchxError(
                f"the mask of slice {row} in {self.path} cannot be read: {error}", "remove that file: it is made again"
            ) from error
        return image.astype(np.uint8)


@dataclass(frozen=True)
class MaskJob:
    """Prepare `pngs` for a cache of `size` pixels that is centred as `centre` says.

    `files` are their slices', for `slice`; `centres` (row, column) their series', for `series`.
    """

    start: int
    size: int
    centre: str
    pngs: tuple[bytes, ...]
    files: tuple[SourceFile, ...] = ()
    centres: tuple[tuple[float, float], ...] = ()


def ensure_masks(
    cache: Cache,
    masks: Mapping[int, bytes],
    digest: str,
    source: Path,
    slices: pd.DataFrame,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> MaskCache:
    """Return the masks of `slices` (PNGs by row; `digest` is theirs) as `cache` has the slices, made on first use.

    Their files under `source` are decoded once more where heads are centred. `progress(done, total)` counts slices.
    Raises `IchxError` when the file cannot be written, or a slice's file has changed since the dataset was added.
    """
    rows = np.array(sorted(masks), np.int64)
    known = known_masks(slices, rows)
    name = hashlib.sha256(f"{MASK_FORMAT} {digest}".encode()).hexdigest()[:12]
    path = cache.folder / f"masks-{name}.shard"
    try:
        return MaskCache(path, cache.spec.size, rows, known)
    except (FileNotFoundError, ValueError):
        pass  # not made yet, or damaged from outside
    except OSError as error:
        raise _unusable(path, error) from error
    chunks = _prepared(cache, [masks[row] for row in rows.tolist()], rows, source, slices, processes, progress)
    try:
        write_shard(path, chunks, {})
        return MaskCache(path, cache.spec.size, rows, known)
    except OSError as error:
        raise _unusable(path, error) from error


def prepare_chunk(job: MaskJob) -> tuple[int, list[bytes]]:
    """Return the job's `start`, and its masks centred, resized and packed."""
    packed = []
    for index, png in enumerate(job.pngs):
        mask = decode_mask(png)
        if job.centre == "slice":
            try:
                mask = shift_to_centre(mask, head_centre(read_source_slice(job.files[index]).hu), 0)
            except DicomDefectError:
                mask = np.zeros_like(mask)  # the cache names the slice a defect, and nobody reads it
        elif job.centre == "series" and np.isfinite(job.centres[index]).all():
            mask = shift_to_centre(mask, job.centres[index], 0)
        packed.append(pack(fit_mask(mask, job.size).astype(np.int16)))
    return job.start, packed


def _prepared(
    cache: Cache,
    pngs: list[bytes],
    rows: npt.NDArray[np.int64],
    source: Path,
    slices: pd.DataFrame,
    processes: int | None,
    progress: Progress | None,
) -> list[bytes]:
    spec = cache.spec
    starts = range(0, len(rows), CHUNK)
    workers = worker_count(processes, len(starts))
    mates = series_mates(slices, rows) if spec.centre == "series" else rows[:0]
    done, total = 0, len(rows) + len(mates)

    def advance(by: int) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(done, total)

    advance(0)
    files = None if spec.centre == "none" else SourceFiles(source, slices)
    centres = None
    if files is not None and spec.centre == "series":
        centres = series_centres(files, slices, mates, workers, advance)

    def job(start: int) -> MaskJob:
        part = rows[start : start + CHUNK]
        return MaskJob(
            start,
            spec.size,
            spec.centre,
            tuple(pngs[start : start + CHUNK]),
            files.select(part.tolist()) if files is not None and centres is None else (),
            () if centres is None else tuple((row, column) for row, column in centres[part].tolist()),
        )

    chunks: dict[int, list[bytes]] = {}
    for start, packed in run_jobs(prepare_chunk, map(job, starts), workers):
        chunks[start] = packed
        advance(len(packed))
    return [chunk for start in starts for chunk in chunks[start]]


def _unusable(path: Path, error: OSError) -> IchxError:
    return IchxError(
        f"the masks {path} cannot be written or read: {error.strerror or error}", "free some space or make it writable"
    )
