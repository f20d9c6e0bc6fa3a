"""NIfTI volumes against the DICOM files that they were made from: HU, order, and the time to read them.

Volumes are converted by hand with nibabel: stored values transposed to (x, y, z), an affine in RAS from the headers.
Studies are those of a phantom with real headers, and the complete study of `rsna_mini` if `ICHX_TEST_DATA` names it.
Each volume is read as it is converted, and with its axes in other orders.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
from common import Figure
from nibabel import orientations

from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.ingest import scan_source
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.phantom.dicom_files import write_phantom

AXES = ("RAS", "LAS", "LPI", "ASL", "PIR")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
REPEATS = 5


def measure(quick: bool) -> list[Figure]:
    """Return the figures of NIfTI volumes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patients, size = (3, 128) if quick else (10, 512)
        phantom = write_phantom(folder / "phantom", patients=patients, seed=7, size=size)
        assert phantom.train is not None
        sources = [phantom.train]
        real = Path(os.environ.get("ICHX_TEST_DATA", "")) / "rsna_mini" / "stage_2_test"
        if real.is_dir():
            sources.append(real)
        different = misplaced = slices = volumes = 0
        seconds: dict[str, list[float]] = {"nifti": [], "dicom": [], "nibabel": []}
        for study, files in _studies(sources, folder / "studies"):
            rows, hu = _read(study)
            image = _convert(files)
            paths = [_write(folder / "volumes" / f"{study.name}-{axes}.nii.gz", image, axes) for axes in AXES]
            for path in paths:
                found_rows, found = _read(path)
                different += int((found != hu).sum()) if found.shape == hu.shape else hu.size
                misplaced += int((np.abs(found_rows["position"].to_numpy() - rows["position"].to_numpy()) > 0.1).sum())
                slices, volumes = slices + len(hu), volumes + 1
            for _ in range(1 if quick else REPEATS):
                for kind, what in (("nifti", paths[0]), ("dicom", study)):
                    start = time.perf_counter()
                    _read(what)
                    seconds[kind].append(time.perf_counter() - start)
                start = time.perf_counter()
                np.asarray(nibabel.load(paths[0]).dataobj, np.float32)
                seconds["nibabel"].append(time.perf_counter() - start)
    middle = {kind: statistics.median(values) for kind, values in seconds.items()}
    what = f"{volumes} volumes, {slices:,} slices"
    ratio = middle["nifti"] / middle["dicom"]
    against = middle["nifti"] / middle["nibabel"]  # its slices are read twice: to check the values, and to use them
    baseline = (
        f"DICOM {middle['dicom']:.3g} s ({ratio:.2g} x), nibabel alone {middle['nibabel']:.3g} s ({against:.2g} x)"
    )
    return [
        Figure("HU of NIfTI that differ from DICOM", different, "pixels", what, "0", different == 0),
        Figure("slices of NIfTI out of order or place", misplaced, "slices", what, "0", misplaced == 0),
        Figure("headers and slices of a .nii.gz", middle["nifti"], "s", baseline, "-", True),
    ]


def _studies(sources: list[Path], out: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder with the files of each study."""
    for source in sources:
        scan = scan_source(source)
        for number, (_, rows) in enumerate(scan.groupby("study_id")):
            folder = out / f"{source.name}{number}"
            folder.mkdir(parents=True)
            for name in rows["file"]:
                (folder / name).symlink_to(source / name)
            yield folder, [source / name for name in rows["file"]]


def _read(source: Path) -> tuple[pd.DataFrame, npt.NDArray[np.int16]]:
    """Return the slices of a source in order, and their HU."""
    slices = usable_slices(build_catalog(scan_source(source, processes=1), None)[0])
    files = SourceFiles(source, slices).select(range(len(slices)))
    return slices, np.stack([read_source_slice(file).hu for file in files])


def _convert(files: list[Path]) -> nibabel.Nifti1Image:
    """Return a series as converters store it."""
    slices = sorted((pydicom.dcmread(path) for path in files), key=lambda one: float(one.ImagePositionPatient[2]))
    first, last = slices[0], slices[-1]
    cosines = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    down, right = map(float, first.PixelSpacing)
    start, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[0] * right, cosines[1] * down
    affine[:3, 2], affine[:3, 3] = (end - start) / (len(slices) - 1), start
    stored = np.stack([one.pixel_array.T for one in slices], axis=-1).astype(np.int32)
    hu = stored * int(first.RescaleSlope) + int(first.RescaleIntercept)
    return nibabel.Nifti1Image(hu.astype(np.int16), LPS_TO_RAS @ affine)


def _write(path: Path, image: nibabel.Nifti1Image, axes: str) -> Path:
    """Write a volume with its axes in another order."""
    stored = np.asanyarray(image.dataobj)
    change = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(tuple(axes))
    )
    affine = image.affine @ orientations.inv_ornt_aff(change, stored.shape)
    path.parent.mkdir(exist_ok=True)
    nibabel.Nifti1Image(orientations.apply_orientation(stored, change), affine).to_filename(path)
    return path
