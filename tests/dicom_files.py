"""Small CT files for tests: real DICOM, with any element changed or left out."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SIDE = 32


def head(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return stored values of a bright disc in air, for intercept -1024: (side, side) uint16."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 3) ** 2
    return np.where(disc, 1060, 20).astype(np.uint16) + random.integers(0, 20, (side, side), np.uint16)


def write_ct(
    path: Path, stored: np.ndarray | None = None, syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> Path:
    """Write a CT slice; `elements` by keyword replace the usual ones, None leaves one out. `stored=None` is a head."""
    stored = head() if stored is None else stored
    dataset = Dataset()
    patient = elements.get("PatientID") or ""
    usual = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"ID_{path.stem}",
        "Modality": "CT",
        "PatientID": "p0",
        "StudyInstanceUID": f"ID_study{patient}",
        "SeriesInstanceUID": f"ID_series{patient}",
        "InstanceNumber": 1,
        "ImagePositionPatient": [-120, -120, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "PixelSpacing": [0.5, 0.5],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "WindowCenter": 40,
        "WindowWidth": 80,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "PixelData": stored.tobytes(),
    }
    with config.disable_value_validation():
        for keyword, value in (usual | elements).items():
            if value is not None:
                setattr(dataset, keyword, value)
        if "PixelData" in dataset:
            encapsulated = syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
            dataset["PixelData"].VR = "OB" if encapsulated else "OW"
            dataset["PixelData"].is_undefined_length = encapsulated
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(
            path,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    return path


def write_study(folder: Path, patient: str, slices: int, *, start: int = 0, **elements: Any) -> list[str]:
    """Write a study of `slices` whose files' names are in no order, and return its slice ids from foot to head."""
    ids = []
    for index in range(slices):
        slice_id = f"ID_{patient}{(7919 * (index + 1 + start)) % 4096:03x}{index:02d}"
        ids.append(slice_id)
        write_ct(
            folder / f"{slice_id}.dcm",
            head(seed=index),
            **{
                "SOPInstanceUID": slice_id,
                "PatientID": patient,
                "StudyInstanceUID": f"ID_study{patient}",
                "SeriesInstanceUID": f"ID_series{patient}",
                "InstanceNumber": slices - index,
                "ImagePositionPatient": [-120, -120, 5.0 * index],
            }
            | elements,
        )
    return ids
