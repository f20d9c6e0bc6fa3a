"""Reads CT slices of a NIfTI volume in Hounsfield units, upright as DICOM shows them, or reports a named defect.

A volume has values along three axes and an affine that places them in the patient. Slices lie along its thickest axis,
or the one nearest to the patient's long axis; rows and columns run as in DICOM. Masks in NIfTI files are read alike.
"""

import gzip
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.defects import LARGEST, MOST_FRAMES, SMALLEST, DicomDefectError
from ichx.ct.header import (
    BRAIN_WINDOW,
    LARGEST_INTERCEPT,
    LARGEST_POSITION,
    LARGEST_SLOPE,
    LARGEST_SPACING,
    LEAST_SLOPE,
    LEAST_SPACING,
)
from ichx.ct.pixels import DecodedSlice, plainly_hu, values_to_hu
from ichx.ct.slice_header import SliceHeader

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

NIFTI_SYNTAX: Final = "NIfTI"
"""Transfer syntax of the slices of a volume in a catalog."""

LARGEST_VOLUME: Final = 1 << 30
"""Bytes of the values of a volume."""

THICK: Final = 1.5
"""How many times the other spacings that between slices has at least, if the spacings show which axis it is."""

LEAST_DETERMINANT: Final = 0.05
"""Least volume that the directions of the axes span; 1 if they are at right angles."""

SAMPLED: Final = 2_000_000
"""About how many voxels show whether a volume is a CT."""

MASK_VALUES: Final = frozenset((*range(6), 255))
"""Values of masks; a volume with no others is one."""

_HEAD: Final = 540
"""Bytes of the header of NIfTI-2; that of NIfTI-1 has 348."""
_GZIP: Final = b"\x1f\x8b"
_STARTS: Final = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_LARGEST_RATIO: Final = 1032
"""Most bytes that one deflated byte can become."""
_UNITS: Final = {"meter": 1000.0, "micron": 0.001}
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_IN_PLANE: Final = {2: (1, 0), 1: (2, 0), 0: (2, 1)}
"""The patient's axes along rows and columns of a slice by the axis across it: to the left or the back, and down."""
_BLOCK: Final = 1 << 24


@dataclass(frozen=True)
class VolumeHeader:
    """The header of a volume."""

    shape: tuple[int, int, int]
    """Voxels along the stored axes."""
    dtype: np.dtype[Any]
    offset: int
    """Bytes before the values."""
    slope: float
    intercept: float
    affine: npt.NDArray[np.float64]
    """(4, 4) from stored indices to the patient in mm, x to the left, y to the back, z to the head (LPS)."""
    placed: bool
    """Whether the file has an affine; otherwise `affine` has its spacings and the usual axes."""
    sized: bool
    """Whether the spacings are known."""

    @cached_property
    def spacings(self) -> npt.NDArray[np.float64]:
        """Return the spacings along the stored axes in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @cached_property
    def axes(self) -> tuple[int, int, int]:
        """Return the stored axes along which slices, rows and columns are counted."""
        order = np.argsort(self.spacings)
        thickest = int(order[2])
        if self.spacings[thickest] < THICK * self.spacings[order[1]]:
            thickest = self._world.index(2)
        row, column = _IN_PLANE[self._world[thickest]]
        return thickest, self._world.index(row), self._world.index(column)

    @cached_property
    def flips(self) -> tuple[bool, bool]:
        """Return whether rows and columns run against the stored axes."""
        _, row, column = self.axes
        down, right = self._world[row], self._world[column]
        return bool((self.affine[down, row] < 0) != (down == 2)), bool(self.affine[right, column] < 0)

    @cached_property
    def _world(self) -> list[int]:
        """Return the patient's axis (x, y, z) next to each stored axis, all distinct."""
        from nibabel.orientations import io_orientation  # nibabel takes long to import, and most files are DICOM

        nearest = io_orientation(_TO_LPS @ self.affine)  # type: ignore[no-untyped-call]
        return [int(axis) for axis in nearest[:, 0]]

    @property
    def count(self) -> int:
        """Return the number of slices."""
        return self.shape[self.axes[0]]

    def arranged(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of `stored`, values along the stored axes, as (slices, rows, columns)."""
        flip_rows, flip_columns = self.flips
        return stored.transpose(self.axes)[:, :: -1 if flip_rows else 1, :: -1 if flip_columns else 1]

    def slice_header(self, frame: int, volume: str = "") -> SliceHeader:
        """Return the header of slice `frame`, counted from 1 as stored, of the volume of that name."""
        along, row, column = self.axes
        flip_rows, flip_columns = self.flips
        corner = np.array([0.0, 0, 0, 1])
        corner[along] = frame - 1
        corner[row] = (self.shape[row] - 1) * flip_rows
        corner[column] = (self.shape[column] - 1) * flip_columns
        directions = self.affine[:3, :3] / self.spacings
        right = directions[:, column] * (-1 if flip_columns else 1)
        down = directions[:, row] * (-1 if flip_rows else 1)
        assumed = () if self.placed else ("affine_missing",)
        return SliceHeader(
            slice_id=f"{volume}#{frame:03d}",
            patient_id=volume,
            study_id=volume,
            series_id=volume,
            instance_number=frame,
            rows=self.shape[row],
            columns=self.shape[column],
            bits_allocated=8 * self.dtype.itemsize,
            bits_stored=8 * self.dtype.itemsize,
            signed=self.dtype.kind != "u",
            padding=None,
            slope=self.slope,
            intercept=self.intercept,
            window=BRAIN_WINDOW,
            window_missing=True,
            position=tuple((self.affine @ corner)[:3].tolist()) if self.placed else None,
            orientation=(*right.tolist(), *down.tolist()) if self.placed else None,
            spacing=(float(self.spacings[row]), float(self.spacings[column])) if self.sized else None,
            transfer_syntax=NIFTI_SYNTAX,
            frame=frame,
            assumptions=assumed,
        )


@dataclass(frozen=True)
class Volume:
    """A volume in memory."""

    header: VolumeHeader
    voxels: npt.NDArray[Any]
    """The values of the file along its axes."""

    @cached_property
    def stored(self) -> npt.NDArray[Any]:
        """Return `voxels` as (slices, rows, columns)."""
        return self.header.arranged(self.voxels)

    @np.errstate(all="ignore")
    def read_slice(self, frame: int) -> DecodedSlice:
        """Return slice `frame`, from 1, in HU. Raises `DicomDefectError` if it is constant or does not exist."""
        if not 1 <= frame <= len(self.stored):
            raise DicomDefectError("multi_frame", f"{len(self.stored)} slices, slice {frame} of them requested")
        header = self.header
        hu = values_to_hu(np.ascontiguousarray(self.stored[frame - 1]), header.slope, header.intercept)
        if hu.min() == hu.max():
            raise DicomDefectError("constant_image", f"every pixel is {hu.flat[0]} HU")
        return DecodedSlice(header.slice_header(frame), hu, False)

    @np.errstate(all="ignore")
    def require_ct(self) -> None:
        """Raise `DicomDefectError` if the values are those of a mask, or not plainly HU."""
        step = max(1, round((self.voxels.size / SAMPLED) ** (1 / 3)))
        sample = self.stored[::step, ::step, ::step].astype(np.float64) * self.header.slope + self.header.intercept
        sample = sample[np.isfinite(sample)]
        if not sample.size:
            raise DicomDefectError("not_hu", "no value is a number")
        low, high = float(sample.min()), float(sample.max())
        if MASK_VALUES.issuperset((low, high)) and MASK_VALUES.issuperset(np.unique(sample).tolist()):
            raise DicomDefectError("not_ct", f"values {low:g} to {high:g}: a mask")
        if low == high:
            raise DicomDefectError("constant_image", f"every voxel is {low:g}")
        if not plainly_hu(sample):
            raise DicomDefectError("not_hu", f"values {low:g} to {high:g} are not those of air and tissue in HU")


def is_nifti(handle: BinaryIO) -> bool:
    """Return whether the stream is a NIfTI, compressed or not; it is at its start afterwards. Raises `OSError`."""
    start = handle.read(4)
    handle.seek(0)
    if start[:2] != _GZIP:
        return start in _STARTS and _is_header(_read(handle, _HEAD))
    try:
        with gzip.GzipFile(fileobj=handle) as inflated:
            head = _inflate(inflated, _HEAD)
    except DicomDefectError:
        return False
    handle.seek(0)
    return _is_header(head)


def read_volume_header(handle: BinaryIO) -> VolumeHeader:
    """Return the header of a NIfTI stream. Raises `DicomDefectError` if it is damaged or not that of a volume."""
    stream = gzip.GzipFile(fileobj=handle) if _compressed(handle) else handle
    return _parse(_inflate(stream, _HEAD))


def read_volume(handle: BinaryIO) -> Volume:
    """Return the volume of a NIfTI stream, read once.

    Raises:
        DicomDefectError: The file is damaged, truncated, or not a volume.
        OSError: It cannot be read.
    """
    compressed = _compressed(handle)
    available = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    stream = gzip.GzipFile(fileobj=handle) if compressed else handle
    head = _inflate(stream, _HEAD)
    header = _parse(head)
    size = int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize
    if header.offset + size > available * (_LARGEST_RATIO if compressed else 1):
        raise DicomDefectError("truncated", f"{available} bytes of a file, {header.offset + size} expected")
    content = bytearray(header.offset + size)
    content[: len(head)] = head[: len(content)]
    at = min(len(head), len(content))
    at += _fill(stream, memoryview(content)[at:])
    if at < len(content):
        raise DicomDefectError("truncated", f"{at - header.offset} of {size} bytes")
    if compressed:
        _inflate(stream, 1)  # the checksum follows the last value
    flat = np.frombuffer(content, header.dtype, count=size // header.dtype.itemsize, offset=header.offset)
    return Volume(header, flat.reshape(header.shape, order="F"))


def _compressed(handle: BinaryIO) -> bool:
    start = handle.read(2)
    handle.seek(0)
    return start == _GZIP


def _read(handle: BinaryIO, size: int) -> bytes:
    head = handle.read(size)
    handle.seek(0)
    return head


def _inflate(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """Return up to `size` bytes. Raises `DicomDefectError` for damaged compression."""
    content = bytearray(size)
    return bytes(content[: _fill(stream, memoryview(content))])


def _fill(stream: BinaryIO | gzip.GzipFile, view: memoryview) -> int:
    """Read into `view` as far as the stream goes; return the number of bytes."""
    at = 0
    try:
        while at < len(view):
            part = stream.read(min(_BLOCK, len(view) - at))
            if not part:
                break
            view[at : at + len(part)] = part
            at += len(part)
    except EOFError as error:
        raise DicomDefectError("truncated", "the compressed file ends early") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DicomDefectError("undecodable", f"damaged compression: {error}") from error
    return at


def _is_header(head: bytes) -> bool:
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


@np.errstate(all="ignore")
def _parse(head: bytes) -> VolumeHeader:
    """Return the header in the first bytes of a file."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    if head[344:347] == b"ni1" or head[4:7] == b"ni2":
        raise DicomDefectError("damaged_header", "a NIfTI of two files (.hdr and .img): convert it to one .nii file")
    kind, length = (Nifti2Header, 540) if head[4:7] == b"n+2" else (Nifti1Header, 348)
    try:
        found: Any = kind(head[:length], check=False)  # type: ignore[no-untyped-call]
        shape, dtype = tuple(map(int, found.get_data_shape())), found.get_data_dtype()
        offset, (slope, intercept) = int(found.get_data_offset()), found.get_slope_inter()
    except (HeaderDataError, ValueError, KeyError, OverflowError, WrapStructError) as error:
        raise DicomDefectError("damaged_header", str(error) or "cannot be parsed") from error
    if len(shape) > 3 and any(n != 1 for n in shape[3:]):
        raise DicomDefectError("several_volumes", f"{' x '.join(map(str, shape))} voxels")
    shape = shape[:3]
    if len(shape) < 3 or dtype.kind not in "iuf" or dtype.itemsize > 8:
        what = f"{len(shape)} axes" if len(shape) < 3 else f"values of type {dtype}"
        raise DicomDefectError("unsupported_pixels", what)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    slope, intercept = (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))
    if not LEAST_SLOPE <= abs(slope) <= LARGEST_SLOPE or not abs(intercept) <= LARGEST_INTERCEPT:
        raise DicomDefectError("bad_rescale", f"slope {slope:g}, intercept {intercept:g}")
    header = VolumeHeader((shape[0], shape[1], shape[2]), dtype, offset, slope, intercept, *_affine(found))
    if min(shape) < 1 or offset < 0 or offset + size > LARGEST_VOLUME:
        raise DicomDefectError("absurd_size", f"{' x '.join(map(str, shape))} voxels of {dtype}")
    along, row, column = header.axes
    if not all(SMALLEST <= shape[axis] <= LARGEST for axis in (row, column)) or shape[along] > MOST_FRAMES:
        raise DicomDefectError("absurd_size", f"{shape[along]} slices of {shape[row]} x {shape[column]}")
    return header


def _affine(found: "Nifti1Header") -> tuple[npt.NDArray[np.float64], bool, bool]:
    """Return the affine to LPS in mm, whether the file has it, and whether it has plausible spacings."""
    from nibabel.spatialimages import HeaderDataError

    try:
        unit = _UNITS.get(found.get_xyzt_units()[0], 1.0)  # type: ignore[no-untyped-call]
    except KeyError:
        unit = 1.0
    if int(found["sform_code"]) or int(found["qform_code"]):
        try:
            to_ras = found.get_best_affine()  # type: ignore[no-untyped-call]
        except (HeaderDataError, ValueError):
            to_ras = np.full((4, 4), np.nan)
        affine = _TO_LPS @ np.diag([unit, unit, unit, 1.0]) @ np.asarray(to_ras, np.float64)
        if _plausible(affine):
            return affine, True, True
    spacings = np.abs(np.asarray(found["pixdim"][1:4], np.float64)) * unit
    sized = bool(((spacings >= LEAST_SPACING) & (spacings <= LARGEST_SPACING)).all())
    across, down, along = spacings.tolist() if sized else (1.0, 1.0, 1.0)
    # Axes as most converters store them: to the left, to the front, to the head.
    return np.diag([across, -down, along, 1.0]), False, sized


def _plausible(affine: npt.NDArray[np.float64]) -> bool:
    """Return whether `affine` has positions and spacings of a scanner, and three directions."""
    if not np.isfinite(affine).all() or np.abs(affine[:3, 3]).max() > LARGEST_POSITION:
        return False
    spacings = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacings >= LEAST_SPACING) & (spacings <= LARGEST_SPACING)).all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / spacings)) > LEAST_DETERMINANT)
