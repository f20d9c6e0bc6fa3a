"""Small DICOM files and their catalog rows, for tests of the cache and the loader."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ichx.labels import LABELS


def head(rows: int = 64, columns: int = 64, centre: tuple[int, int] = (30, 36), seed: int = 0) -> np.ndarray:
    """Return a noisy disc of tissue in air, (rows, columns) int16 HU."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (min(rows, columns) / 4) ** 2
    return np.where(disc, rng.integers(0, 80, (rows, columns)), -1000).astype(np.int16)


def write_slice(path: Path, hu: np.ndarray, slice_id: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[slice_id])
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "CT", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = hu.astype("<i2").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_catalog(folder: Path, images: Sequence[np.ndarray], copies: int = 1) -> pd.DataFrame:
    """Write `images` to `folder`; return a catalog that lists the files `copies` times under different ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        write_slice(folder / f"{index}.dcm", image, str(index))
    records = []
    for copy in range(copies):
        for index, image in enumerate(images):
            status = (folder / f"{index}.dcm").stat()
            records.append(
                {
                    "slice_id": f"ID_{copy}_{index}",
                    "file": f"{index}.dcm",
                    "bytes": status.st_size,
                    "mtime_ns": status.st_mtime_ns,
                    "study": "study",
                    "series": f"series{copy}",
                    "order": index,
                    "run": 0,
                    "rows": image.shape[0],
                    "columns": image.shape[1],
                    "window_centre": 40.0 + index,
                    "window_width": 80.0,
                    **{label: float((index + number) % 2) for number, label in enumerate(LABELS)},
                }
            )
    return pd.DataFrame(records)
