"""BHX: bounding boxes of bleeds in slices of CQ500, in the folders of CQ500 with the tables of BHX beside them.

A box makes its slice positive for its subtype. A slice without a box is unknown: annotators did not read every slice.
If `reads.csv` of CQ500 is there, too, studies without any bleed for most readers are negative.
"""

import csv
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from ichx.datasets.formats.contract import DatasetFormat, FormatContents, ReplicaOptions
from ichx.datasets.formats.cq500 import (
    READS,
    SERIES,
    SLICES,
    file_ids,
    read_reads,
    study_folders,
    write_reads,
    write_study,
)
from ichx.datasets.formats.dicom_replica import replica_uid, slice_uid
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.label_table import LabelTable
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.phantom.study import PhantomStudy
from ichx.text import format_count, format_examples

TABLES: Final = {
    "selected": "3_Extrapolation_to_Selected_Series.csv",
    "all": "2_Extrapolation_to_All_Series.csv",
    "initial": "1_Initial_Manual_Labeling.csv",
}
COLUMNS: Final = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "labelName")
CHRONIC: Final = "Chronic"
NAMES: Final = {name.capitalize(): name for name in SUBTYPES}
"""Subtype by labelName."""


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: the folders of CQ500 and the tables of boxes."""
    folders = study_folders(files)
    name = TABLES[files.option("boxes")]
    table = files.table(files.one(rf"(^|/){name}$", name), COLUMNS)
    unknown = sorted(set(table["labelName"]) - {*NAMES, CHRONIC})
    if unknown:
        raise files.unlike(f"{name} has {format_count(len(unknown), 'unknown labelName')}{format_examples(unknown)}")
    if len(empty := np.flatnonzero(table["SOPInstanceUID"] == "")):
        raise files.unlike(f"{name} has {format_count(len(empty), 'row')} without a SOPInstanceUID")
    chronic = int((table["labelName"] == CHRONIC).sum())
    as_subdural = files.option("chronic") == "subdural"
    subtype = table["labelName"].map(NAMES | ({CHRONIC: "subdural"} if as_subdural else {}))
    boxes = pd.DataFrame({"id": table["SOPInstanceUID"], "subtype": subtype}).dropna()
    if boxes.empty:
        raise files.unlike(f"{name} has no boxes")
    codes, ids = pd.factorize(boxes["id"])
    values = np.full((len(ids), len(LABELS)), np.nan, np.float32)
    values[codes, [LABELS.index(one) for one in boxes["subtype"]]] = 1
    values[:, LABELS.index(ANY)] = 1
    how = "are subdural" if as_subdural else "are ignored (`--format-option chronic=subdural` counts them)"
    notes = [
        f"{format_count(len(boxes), 'box', 'boxes')} of {name} on {format_count(len(ids), 'slice')}. Slices without a "
        "box are unknown, as are other subtypes of slices with one.",
        f"{format_count(chronic, 'box', 'boxes')} of chronic bleeds {how}.",
        "Studies are those of CQ500: do not evaluate on both as if they were independent.",
    ]
    labels = [LabelTable(np.array(ids, object), values, origin=name)]
    if files.option("negatives") == "reads" and files.find(rf"(^|/){READS}$"):
        reads = read_reads(files, folders)
        negative = reads.majority()[:, LABELS.index(ANY)] == 0
        if negative.any():
            zeros = np.zeros((int(negative.sum()), len(LABELS)), np.float32)
            labels.append(LabelTable(reads.folders[negative], zeros, level="study", kind="folder", origin=READS))
        notes.append(
            f"Negative: {format_count(int(negative.sum()), 'study', 'studies')} without a bleed for most readers of "
            f"{READS} (`--format-option negatives=none` leaves them unknown)."
        )
    return FormatContents(include=SLICES, ids=file_ids(files), labels=tuple(labels), notes=tuple(notes))


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica: CQ500's first two series with the three tables of boxes and `reads.csv`."""
    studies = list(replica_studies(options, progress))
    slices = sum(write_study(folder, number, study, SERIES[:2]) for number, study in enumerate(studies))
    write_reads(folder, [study.labels.max(axis=0) for study in studies], options.seed)
    for which, name in TABLES.items():
        series = SERIES[:2] if which == "all" else SERIES[:1]
        step = 3 if which == "initial" else 1
        rows = [
            row
            for number, study in enumerate(studies)
            for kind in series
            for row in _boxes(number, study, kind.folder, step)
        ]
        with (folder / name).open("w", newline="", encoding="ascii") as handle:
            head = ("", *COLUMNS[:3], "data", "labelName", "labelType")
            csv.writer(handle).writerows([head, *((index, *row) for index, row in enumerate(rows))])
    return slices


def _boxes(number: int, study: PhantomStudy, series: str, step: int) -> list[tuple[str, ...]]:
    """Return a row per box of every `step`-th slice; the boxes of study 0 are chronic if subdural."""
    patient = f"CQ500-CT-{number}"
    rows: list[tuple[str, ...]] = []
    for index in range(0, len(study.mask), step):
        for value, name in enumerate(SUBTYPES, start=1):
            y, x = np.nonzero(study.mask[index] == value)
            if not len(x):
                continue
            box = {"x": int(x.min()), "y": int(y.min()), "width": int(np.ptp(x)) + 1, "height": int(np.ptp(y)) + 1}
            label = CHRONIC if name == "subdural" and number == 0 else name.capitalize()
            ids = (
                slice_uid(patient, series, index),
                replica_uid("series", patient, series),
                replica_uid("study", patient),
            )
            rows.append((*ids, str(box), label, "boundingbox"))
    return rows


FORMAT: Final = DatasetFormat(
    name="bhx",
    title="BHX 1.1: bounding boxes of bleeds in slices of CQ500, with its DICOM files",
    licence="PhysioNet's licence for the boxes; CC BY-NC-SA 4.0 for CQ500",
    read=read,
    options={
        "boxes": ("selected", "all", "initial"),
        "chronic": ("ignore", "subdural"),
        "negatives": ("reads", "none"),
    },
    write_replica=write_replica,
)
