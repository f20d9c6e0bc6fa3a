"""INSTANCE22: NIfTI volumes with binary masks of hemorrhage."""

from pathlib import Path
from typing import Final

import numpy as np

from ichx.datasets.formats.contract import DatasetFormat, FileIds, FormatContents, ReplicaOptions
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.formats.volume_files import (
    BINARY_NOTE,
    common_folder,
    mask_pairs,
    plain_name,
    relative,
    unlabelled_note,
    write_volume,
)
from ichx.datasets.ingest import ProgressCallback

_TRAIN: Final = r"(^|/)train(_\d+)?"
_FILE: Final = r"\d+\.nii(\.gz)?$"


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: `train_2/data/001.nii.gz` and `train_2/label/001.nii.gz`."""
    found = files.require(rf"{_TRAIN}/data/{_FILE}", "volumes train_2/data/001.nii.gz")
    folder = common_folder(files, found)
    volumes = {plain_name(name): relative(name, folder) for name in found}
    masks = {plain_name(name): name for name in files.require(rf"{_TRAIN}/labels?/{_FILE}", "masks train_2/label")}
    return FormatContents(
        folder=folder,
        include=rf"(^|/){_FILE}",
        ids={name: FileIds(volume=volume) for volume, name in volumes.items()},
        masks=mask_pairs(volumes, masks),
        labels_from_masks=True,
        notes=(BINARY_NOTE, *unlabelled_note(set(volumes) - set(masks))),
    )


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica of the training set."""
    slices = 0
    for number, study in enumerate(replica_studies(options, progress), start=1):
        write_volume(folder / "train_2" / "data" / f"{number:03d}.nii.gz", study.hu, study)
        write_volume(folder / "train_2" / "label" / f"{number:03d}.nii.gz", (study.mask > 0).astype(np.uint8), study)
        slices += len(study.hu)
    return slices


FORMAT: Final = DatasetFormat(
    name="instance22",
    title="INSTANCE22: 100 NIfTI volumes with binary masks",
    licence="CC BY-NC-ND 4.0",
    read=read,
    write_replica=write_replica,
)
