"""Masks in NIfTI files: compared with their volumes, and cut into the masks of slices. PNGs are in `masks`.

Values are 0 and the numbers of subtypes (1 + the index in `ichx.labels.SUBTYPES`), or the mask is binary: 0 and 1, or 0
and 255. A binary mask has the subtype of its slice if the labels name exactly one.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.defects import DicomDefectError
from ichx.ct.nifti import VolumeHeader, is_nifti, read_volume, read_volume_header
from ichx.datasets.file_list import FileLocation
from ichx.datasets.label_table import LabelTable
from ichx.datasets.mask_png import decode_mask
from ichx.datasets.masks import rejected_masks
from ichx.datasets.volumes import SUFFIX
from ichx.errors import InvalidInputError, raise_problems
from ichx.labels import LABELS, SUBTYPES
from ichx.text import format_count, format_examples
from ichx.worker_pool import map_in_processes, worker_count

CHUNK: Final = 2
"""Masks per job."""

VOLUME_MASK_DEFECTS: Final = {
    "unreadable": "cannot be read, or damaged",
    "form": "not a NIfTI volume",
    "shape": "not the shape of its volume",
    "affine": "another affine than its volume",
    "value": "a value that is not a whole number of 0 to 255",
}
"""Why masks of volumes are rejected, and the meanings."""

BINARY: Final = (frozenset({1}), frozenset({255}), frozenset[int]())
"""Values other than 0 of binary masks."""

_MASK_SUFFIX = re.compile(r"[_-](mask|seg|segmentation|label)$", re.IGNORECASE)


@dataclass(frozen=True)
class MaskOfVolume:
    """A volume and its mask."""

    volume: str
    """Name of the volume's file in the catalog."""
    volume_at: FileLocation
    mask: str
    """Name of the mask's file."""
    mask_at: FileLocation


@dataclass(frozen=True)
class VolumeMaskJob:
    """Read masks, the first of which has the number `start`."""

    start: int
    pairs: tuple[MaskOfVolume, ...]


@dataclass(frozen=True)
class VolumeMask:
    """The content of a mask: PNG and values of each slice that has any, by frame; or a defect."""

    slices: Mapping[int, tuple[bytes, frozenset[int]]]
    defect: str = ""
    detail: str = ""


@dataclass(frozen=True)
class VolumeMasks:
    """Masks of volumes of a catalog."""

    rows: npt.NDArray[np.int64]
    """(N,) rows of the slices of volumes with a mask, ascending."""
    pngs: tuple[bytes, ...]
    """(N,) PNGs of the values in the files; empty where a slice has no value but 0."""
    values: tuple[frozenset[int], ...]
    """(N,) values other than 0 in each slice."""
    subtype: Mapping[int, int] | None
    """Number of the subtype by value; None if the masks are binary."""
    volumes: int

    def drawn(self) -> npt.NDArray[np.bool_]:
        """Return whether each slice has pixels, (N,)."""
        return np.array([bool(values) for values in self.values], bool)

    def subtypes(self) -> npt.NDArray[np.bool_] | None:
        """Return which subtypes each slice has, (N, 5); None if the masks are binary."""
        if self.subtype is None:
            return None
        found = np.zeros((len(self.rows), len(SUBTYPES)), bool)
        for i, values in enumerate(self.values):
            for value in values:
                found[i, self.subtype[value] - 1] = True
        return found

    def pixels(self, i: int, number: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of a slice that has some as numbers of subtypes, in a binary mask `number`."""
        table = np.zeros(256, np.uint8)
        for value in self.values[i]:
            table[value] = number if self.subtype is None else self.subtype[value]
        return table[decode_mask(self.pngs[i])]

    def labels(self, catalog: pd.DataFrame, origin: str) -> LabelTable:
        """Return the labels that follow from the masks; subtypes of binary masks are unknown where they have pixels."""
        found = np.zeros((len(self.rows), len(LABELS)), np.float32)
        drawn, subtypes = self.drawn(), self.subtypes()
        if subtypes is None:
            found[drawn, : len(SUBTYPES)] = np.nan
        else:
            found[:, : len(SUBTYPES)] = subtypes
        found[:, -1] = drawn
        ids = catalog["slice_id"].to_numpy(object)[self.rows]
        return LabelTable(ids, found, origin=origin)


def read_volume_masks(pairs: Sequence[MaskOfVolume], catalog: pd.DataFrame, subtypes: Mapping[int, str]) -> VolumeMasks:
    """Read masks of volumes.

    Args:
        pairs: The volumes and their masks.
        catalog: The catalog, whose files the volumes are.
        subtypes: Subtype by value; empty to infer from the values whether masks are binary.

    Raises:
        InvalidInputError: Masks are rejected (all are listed, see `VOLUME_MASK_DEFECTS`), or have unknown values.
    """
    starts = range(0, len(pairs), CHUNK)
    jobs = (VolumeMaskJob(start, tuple(pairs[start : start + CHUNK])) for start in starts)
    chunks = dict(map_in_processes(read_mask_volumes, jobs, worker_count(None, len(starts))))
    found = [mask for start in starts for mask in chunks[start]]
    _raise_rejected(pairs, found)
    present = frozenset(value for mask in found for _, values in mask.slices.values() for value in values)
    subtype = {value: SUBTYPES.index(name) + 1 for value, name in subtypes.items()}
    if not subtype and present not in BINARY:
        subtype = {number: number for number in range(1, len(SUBTYPES) + 1)}
    if unknown := present - set(subtype) if subtype else frozenset[int]():
        names = [pair.mask for pair, mask in zip(pairs, found, strict=True) if _has(mask, unknown)]
        known = ", ".join(f"{value} {SUBTYPES[number - 1]}" for value, number in sorted(subtype.items()))
        raise InvalidInputError(
            f"{format_count(len(names), 'mask')} with the values {', '.join(map(str, sorted(unknown)))}"
            f"{format_examples(names)}.",
            f"The values of a mask are 0 for no bleed and {known}; or 0 and 1, or 0 and 255, if it is binary.",
        )
    mask_of = {pair.volume: mask for pair, mask in zip(pairs, found, strict=True)}
    rows = np.flatnonzero(catalog["defect"].isna() & catalog["file"].isin(list(mask_of)))
    at = zip(catalog["file"].to_numpy(object)[rows], catalog["frame"].to_numpy()[rows].tolist(), strict=True)
    content = [mask_of[file].slices.get(frame, (b"", frozenset[int]())) for file, frame in at]
    pngs, values = tuple(png for png, _ in content), tuple(value for _, value in content)
    return VolumeMasks(rows, pngs, values, subtype or None, len(pairs))


def read_mask_volumes(job: VolumeMaskJob) -> tuple[int, list[VolumeMask]]:
    """Return the job's `start` and its masks."""
    return job.start, [_read_mask(pair) for pair in job.pairs]


def _read_mask(pair: MaskOfVolume) -> VolumeMask:
    try:
        with pair.volume_at.open() as handle:
            header = read_volume_header(handle)
        with pair.mask_at.open() as handle:
            if not is_nifti(handle):
                return VolumeMask({}, "form")
            found = read_volume(handle)
    except OSError as error:
        return VolumeMask({}, "unreadable", error.strerror or str(error))
    except DicomDefectError as defect:
        return VolumeMask({}, "unreadable", defect.detail or defect.reason)
    if found.header.shape != header.shape:
        shapes = [" x ".join(map(str, shape)) for shape in (found.header.shape, header.shape)]
        return VolumeMask({}, "shape", f"{shapes[0]} instead of {shapes[1]}")
    if (apart := _apart(found.header, header)) is not None:
        return VolumeMask({}, "affine", f"corners are up to {apart:.1f} mm apart")
    # Without an affine of its own, or with another rounding, a mask has the axes of its volume.
    stored = header.arranged(found.voxels)
    slices = {}
    for index in range(len(stored)):
        values = stored[index].astype(np.float64) * found.header.slope + found.header.intercept
        values = np.nan_to_num(values)
        if not values.any():
            continue
        if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
            wrong = values[(values < 0) | (values > 255) | (values != np.rint(values))]
            return VolumeMask({}, "value", f"{wrong[0]:g}")
        pixels = np.ascontiguousarray(values, np.uint8)
        present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
        slices[index + 1] = bytes(imagecodecs.png_encode(pixels)), frozenset(present[present > 0].tolist())
    return VolumeMask(slices)


def _apart(mask: VolumeHeader, volume: VolumeHeader) -> float | None:
    """Return by how many mm corners of mask and volume differ; None if it is less than half a voxel, or unknown."""
    if not mask.placed or not volume.placed:
        return None
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in volume.shape))], np.float64)
    apart = float(np.linalg.norm(corners @ (mask.affine - volume.affine).T, axis=1).max())
    return apart if apart > volume.spacings.min() / 2 else None


def _has(mask: VolumeMask, values: frozenset[int]) -> bool:
    return any(values & found for _, found in mask.slices.values())


def _raise_rejected(pairs: Sequence[MaskOfVolume], found: list[VolumeMask]) -> None:
    """Raise `InvalidInputError` if any of `found` has a defect."""
    rejected: dict[str, list[str]] = defaultdict(list)
    for pair, mask in zip(pairs, found, strict=True):
        if mask.defect:
            rejected[mask.defect].append(f"{pair.mask}: {mask.detail}" if mask.detail else pair.mask)
    raise_problems(
        rejected_masks(rejected, VOLUME_MASK_DEFECTS),
        "A mask of a volume is a NIfTI with the shape and affine of the volume.",
    )


def pair_masks(source: Path, names: Sequence[str], catalog: pd.DataFrame) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the file of the volume of each mask in `names`, files under `source`, and the masks without a volume.

    A mask has the path of its volume, the name of its volume, also without `_0000`, or a name that adds `_mask`, `_seg`
    or `_label` to it.

    Raises:
        InvalidInputError: No mask has a volume, or a volume has several masks.
    """
    volumes = catalog.loc[catalog["defect"].isna() & (catalog["frame"] > 0), ["file", "slice_id"]]
    volumes = volumes.drop_duplicates("file")
    by_path = {SUFFIX.sub("", name): name for name in volumes["file"]}
    by_name = {slice_id.rpartition("#")[0]: file for file, slice_id in volumes.itertuples(index=False)}
    by_name |= {name.removesuffix("_0000"): file for name, file in by_name.items()}  # of the channel, in nnU-Net
    pairs, others = [], []
    masks_of: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = SUFFIX.sub("", name)
        stem = plain.rpartition("/")[2]
        volume = by_path.get(plain) or next(
            (by_name[form] for form in (stem, _MASK_SUFFIX.sub("", stem)) if form in by_name), ""
        )
        if volume:
            pairs.append((volume, name))
            masks_of[volume].append(name)
        else:
            others.append(name)
    if not pairs:
        example = next(iter(by_name), "none")
        raise InvalidInputError(
            f"No mask in {source} has the name of a volume. A mask is {names[0]!r}; a volume is {example!r}.",
            "Name masks like their volumes.",
        )
    if several := [f"{volume}: {' and '.join(found[:2])}" for volume, found in masks_of.items() if len(found) > 1]:
        raise InvalidInputError(
            f"{format_count(len(several), 'volume')} with several masks{format_examples(several)}.",
            "Leave one mask per volume.",
        )
    return pairs, others
