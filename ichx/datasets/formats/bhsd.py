"""BHSD: NIfTI volumes of RSNA 2019 studies with masks of the five subtypes, and further volumes without masks."""

from pathlib import Path
from typing import Final

import numpy as np

from ichx.datasets.formats.contract import DatasetFormat, FormatContents, ReplicaOptions
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.formats.rsna_volumes import RSNA_NOTE, STUDY, rsna_ids, rsna_name
from ichx.datasets.formats.volume_files import (
    common_folder,
    mask_pairs,
    plain_name,
    relative,
    unlabelled_note,
    write_volume,
)
from ichx.datasets.ingest import ProgressCallback
from ichx.labels import SUBTYPES

MASK_VALUES: Final = dict(enumerate(SUBTYPES, start=1))
"""Epidural, intraparenchymal, intraventricular, subarachnoid, subdural: EDH, IPH, IVH, SAH, SDH."""

_MASKS: Final = r"(^|/)(ground[ _]truths?|labels?|masks?)/"
_FILE: Final = rf"{STUDY}(\.nii(\.gz)?)?$"


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: `images/ID_x_ID_y.nii.gz` and `ground truths/ID_x_ID_y.nii.gz`."""
    masks = {plain_name(name): name for name in files.find(rf"{_MASKS}{_FILE}")}
    of_masks = set(masks.values())
    found = files.require(rf"(^|/){_FILE}", "volumes ID_x_ID_y.nii.gz")
    images = [name for name in found if name not in of_masks]
    if not images:
        raise files.unlike("it has masks only, and no folder images")
    folder = common_folder(files, images)
    volumes = {plain_name(name): relative(name, folder) for name in images}
    notes = [RSNA_NOTE]
    if masks:
        notes += unlabelled_note(set(volumes) - set(masks))
    else:
        notes.append("The source has no masks: the dataset is unlabelled.")
    return FormatContents(
        folder=folder,
        include=rf"(^|/){_FILE}",
        ids={name: rsna_ids(volume) for volume, name in volumes.items()},
        masks=mask_pairs(volumes, masks),
        mask_values=MASK_VALUES,
        labels_from_masks=True,
        notes=tuple(notes),
    )


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica: studies with masks in `label_192`; the suffix of one volume is missing, as in the download."""
    slices = 0
    for number, study in enumerate(replica_studies(options, progress)):
        name = rsna_name(options.seed, number)
        volume = folder / "label_192" / "images" / f"{name}.nii.gz"
        write_volume(volume, study.hu, study)
        write_volume(folder / "label_192" / "ground truths" / f"{name}.nii.gz", study.mask.astype(np.uint8), study)
        if number == 1:
            volume.rename(volume.with_name(name))
        slices += len(study.hu)
    return slices


FORMAT: Final = DatasetFormat(
    name="bhsd",
    title="BHSD: 192 NIfTI volumes of RSNA 2019 with masks of the five subtypes",
    licence="not stated; images under RSNA's terms, non-commercial",
    read=read,
    write_replica=write_replica,
)
