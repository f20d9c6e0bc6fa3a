"""DICOM series of replicas: headers as the publishers' files have them, with valid UIDs."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ichx.phantom.study import PhantomStudy


@dataclass(frozen=True)
class SeriesKind:
    """A series of a study in a replica."""

    folder: str
    """Name of its folder, as a SeriesDescription."""
    share: float
    """Share of the study's slices that it has."""
    kernel: str
    thickness: float | None = None
    """In mm; None for that of the study."""
    contrast: bool = False


def replica_uid(*parts: object) -> str:
    """Return a valid UID (PS3.5 B.2) derived from `parts`."""
    return f"2.25.{int(hashlib.sha256(repr(parts).encode()).hexdigest()[:31], 16)}"


def random_numbers(*parts: object) -> np.random.Generator:
    """Return a generator derived from `parts`."""
    return np.random.Generator(np.random.Philox(int(hashlib.sha256(repr(parts).encode()).hexdigest()[:16], 16)))


def slice_uid(patient: str, series: str, index: int) -> str:
    """Return the SOPInstanceUID of a slice of a replica."""
    return replica_uid("slice", patient, series, index)


def write_series(folder: Path, patient: str, study: PhantomStudy, kind: SeriesKind) -> int:
    """Write a series of `study` as `CT000000.dcm` and so on; return the number of slices."""
    folder.mkdir(parents=True)
    count = max(2, round(kind.share * len(study.hu)))
    thickness = kind.thickness or study.thickness
    for index, hu in enumerate(study.hu[:count]):
        dataset = _header(patient, study, kind, index)
        dataset.ImagePositionPatient = [
            -hu.shape[1] / 2 * study.spacing,
            -hu.shape[0] / 2 * study.spacing,
            index * thickness,
        ]
        dataset.SliceThickness = thickness
        _write(folder / f"CT{index:06d}.dcm", dataset, hu)
    return count


def _header(patient: str, study: PhantomStudy, kind: SeriesKind, index: int) -> Dataset:
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = UID(slice_uid(patient, kind.folder, index))
    dataset.Modality = "CT"
    dataset.PatientID = patient
    if kind.contrast:
        dataset.ContrastBolusAgent = "APPLIED"
    dataset.BodyPartExamined = "HEAD"
    dataset.ConvolutionKernel = kind.kernel
    dataset.StudyInstanceUID = UID(replica_uid("study", patient))
    dataset.SeriesInstanceUID = UID(replica_uid("series", patient, kind.folder))
    dataset.InstanceNumber = index + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [round(study.spacing, 6)] * 2
    return dataset


def _write(path: Path, dataset: Dataset, hu: npt.NDArray[np.int16]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.WindowCenter, dataset.WindowWidth = 40, 80
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.PixelData = (hu.astype("<i2") + np.int16(1024)).tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    content = BytesIO()
    dcmwrite(content, dataset, enforce_file_format=True)
    path.write_bytes(content.getvalue())
