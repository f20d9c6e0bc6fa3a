"""Seg-CQ500: NIfTI volumes of 51 positive studies of CQ500 with binary masks."""

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
    relative,
    unlabelled_note,
    write_volume,
)
from ichx.datasets.ingest import ProgressCallback

_VOLUME: Final = r"(^|/)CT\.nii(\.gz)?$"


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: `data/volumes/<case>/CT.nii` and `ICH_mask.nii.gz`."""
    found = files.require(_VOLUME, "volumes data/volumes/<case>/CT.nii")
    if bare := [name for name in found if "/" not in name]:
        raise files.unlike(f"{bare[0]} is not in the folder of its case")
    folder = common_folder(files, found, depth=2)
    volumes = {name.split("/")[-2]: relative(name, folder) for name in found}
    masks = {name.split("/")[-2]: name for name in files.require(r"/ICH_mask\.nii(\.gz)?$", "masks ICH_mask.nii.gz")}
    independent = "Volumes are studies of CQ500: do not evaluate on both as if they were independent."
    return FormatContents(
        folder=folder,
        include=_VOLUME,
        ids={name: FileIds(volume=case) for case, name in volumes.items()},
        masks=mask_pairs(volumes, masks),
        labels_from_masks=True,
        notes=(independent, BINARY_NOTE, *unlabelled_note(set(volumes) - set(masks))),
    )


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica: a folder per case, with the mask of the brain that the publisher adds."""
    slices = 0
    for number, study in enumerate(replica_studies(options, progress)):
        case = folder / "Seg-CQ500" / "data" / "volumes" / f"CQ500CT{7 * number}"
        write_volume(case / "CT.nii", study.hu, study)
        write_volume(case / "ICH_mask.nii.gz", (study.mask > 0).astype(np.uint8), study)
        write_volume(case / "brain.nii.gz", ((study.hu > 0) & (study.hu < 80)).astype(np.uint8), study)
        slices += len(study.hu)
    return slices


FORMAT: Final = DatasetFormat(
    name="seg-cq500",
    title="Seg-CQ500: 51 positive studies of CQ500 as NIfTI with binary masks",
    licence="CC BY-NC-SA 4.0, as CQ500",
    read=read,
    write_replica=write_replica,
)
