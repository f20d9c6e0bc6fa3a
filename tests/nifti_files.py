"""NIfTI files for tests, converted from DICOM by hand with nibabel."""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def sorted_slices(files: Sequence[Path]) -> list[pydicom.Dataset]:
    """Return the slices of one series from foot to head."""
    slices = [pydicom.dcmread(path) for path in files]
    return sorted(slices, key=lambda one: float(one.ImagePositionPatient[2]))


def convert(files: Sequence[Path]) -> nibabel.Nifti1Image:
    """Return the slices of one series, in files in any order, as converters store them: (x, y, z), RAS, raw values."""
    slices = sorted_slices(files)
    first, last = slices[0], slices[-1]
    stored = np.stack([one.pixel_array.T for one in slices], axis=-1)
    cosines = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    down, right = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[0] * right, cosines[1] * down
    start, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    affine[:3, 2] = (end - start) / (len(slices) - 1)
    affine[:3, 3] = start
    image = nibabel.Nifti1Image(stored, LPS_TO_RAS @ affine)
    image.header.set_slope_inter(float(first.RescaleSlope), float(first.RescaleIntercept))
    image.header.set_xyzt_units("mm")
    return image


def write_raw(path: Path, image: nibabel.Nifti1Image) -> Path:
    """Write `image` with its values as they are and the scaling of its header, which nibabel would compute again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scaling = image.header.get_slope_inter()
    plain = path.with_name("plain.nii")
    image.to_filename(plain)
    content = bytearray(plain.read_bytes())
    plain.unlink()
    content[112:120] = np.array(scaling, "<f4").tobytes()
    if path.name.endswith(".gz"):
        import gzip

        path.write_bytes(gzip.compress(bytes(content), 1))
    else:
        path.write_bytes(content)
    return path
