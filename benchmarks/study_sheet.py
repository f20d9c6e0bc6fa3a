"""Labels of the studies of a phantom, as a spreadsheet would have them. Tests use it, too."""

import csv
from collections import defaultdict
from typing import TYPE_CHECKING

import pydicom

from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


def study_labels(files: "PhantomFiles") -> dict[str, dict[str, float]]:
    """Return the labels of each training study by StudyInstanceUID: the largest of its slices."""
    assert files.train is not None
    assert files.train_labels is not None
    of_slices: dict[str, dict[str, float]] = defaultdict(dict)
    with files.train_labels.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            slice_id, _, label = row["ID"].rpartition("_")
            of_slices[slice_id][label] = float(row["Label"])
    of_studies: dict[str, dict[str, float]] = {}
    for path in sorted(files.train.rglob("*.dcm")):
        header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
        study = of_studies.setdefault(str(header.StudyInstanceUID), dict.fromkeys(LABELS, 0.0))
        for label, value in of_slices[str(header.SOPInstanceUID)].items():
            study[label] = max(study[label], value)
    return of_studies
