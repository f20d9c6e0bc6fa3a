"""CT-ICH of PhysioNet: NIfTI volumes, a table of labels per slice, binary masks, age and sex."""

import csv
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.formats.contract import DatasetFormat, FileIds, FormatContents, MaskPair, ReplicaOptions
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.formats.volume_files import common_folder, plain_name, relative, write_volume
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.label_table import LabelTable
from ichx.labels import SUBTYPES
from ichx.text import EXAMPLES, format_count, format_examples

DIAGNOSES: Final = "hemorrhage_diagnosis_raw_ct.csv"
DEMOGRAPHICS: Final = "patient_demographics.csv"
PATIENT, SLICE, NONE = "PatientNumber", "SliceNumber", "No_Hemorrhage"
COLUMNS: Final = tuple(name.capitalize() for name in SUBTYPES)
FIRST: Final = 49
"""Number of the first patient with a scan."""
WITHOUT_SCAN: Final = range(59, 66)
"""Numbers of patients without a scan."""


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: `ct_scans/049.nii`, `masks/049.nii` and the two tables."""
    scans = files.require(r"(^|/)ct_scans/\d+\.nii(\.gz)?$", "volumes ct_scans/049.nii")
    folder = common_folder(files, scans)
    number_of = {int(plain_name(name)): relative(name, folder) for name in scans}
    masks = {int(plain_name(name)): name for name in files.find(r"(^|/)masks/\d+\.nii(\.gz)?$")}
    table = files.table(files.one(rf"(^|/){DIAGNOSES}$", DIAGNOSES), (PATIENT, SLICE, *COLUMNS, NONE))
    people = _demographics(files)
    ids = {
        name: FileIds(volume=f"{number:03d}", sex=people.get(number, ("", ""))[0], age=people.get(number, ("", ""))[1])
        for number, name in number_of.items()
    }
    notes = [
        "`any` is 1 - No_Hemorrhage. Masks are binary: each has the subtype of its slice, if that is the only one.",
        "Faces are blurred and noise was added by the publisher.",
    ]
    if without := sorted(set(number_of) - set(masks)):
        notes.append(f"{format_count(len(without), 'volume')} without a mask{format_examples(map(str, without))}.")
    return FormatContents(
        folder=folder,
        include=r"(^|/)\d+\.nii(\.gz)?$",
        ids=ids,
        labels=(_labels(files, table, set(number_of)),),
        masks=tuple(MaskPair(name, masks[number]) for number, name in number_of.items() if number in masks),
        notes=tuple(notes),
    )


def _labels(files: FormatFiles, table: pd.DataFrame, known: set[int]) -> LabelTable:
    """Return the labels of slices of the `known` volumes."""
    table = table[(table[PATIENT] != "") & (table[SLICE] != "")].reset_index(drop=True)
    patient, number = (_whole(files, table, name) for name in (PATIENT, SLICE))
    number += 1 if len(number) and number.min() == 0 else 0  # ids count slices from 1
    values = np.stack([_whole(files, table, name) for name in (*COLUMNS, NONE)], axis=1).astype(np.float32)
    if len(outside := np.flatnonzero(((values != 0) & (values != 1)).any(axis=1))):
        raise files.unlike(f"{DIAGNOSES} has values other than 0 and 1 in {format_count(len(outside), 'row')}")
    values[:, -1] = 1 - values[:, -1]
    kept = np.isin(patient, list(known))
    ids = np.array([f"{p:03d}#{n:03d}" for p, n in zip(patient[kept], number[kept], strict=True)], object)
    if len(repeated := pd.Index(ids)[pd.Index(ids).duplicated()].unique()):
        count = format_count(len(repeated), "slice")
        raise files.unlike(f"{DIAGNOSES} has several rows of {count}{format_examples(map(str, repeated))}")
    differs = np.flatnonzero(values[kept, :-1].max(axis=1) != values[kept, -1])
    return LabelTable(
        ids, values[kept], origin=DIAGNOSES, any_differs=len(differs), any_examples=tuple(ids[differs[:EXAMPLES]])
    )


def _whole(files: FormatFiles, table: pd.DataFrame, column: str) -> npt.NDArray[np.int64]:
    """Return a column of whole numbers."""
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    if len(wrong := np.flatnonzero(~(numbers == np.rint(numbers)))):
        cells = [f"row {row + 2}: {table[column].iloc[row]!r}" for row in wrong[:EXAMPLES]]
        raise files.unlike(f"{DIAGNOSES} has no whole number in {column}{format_examples(cells, len(wrong))}")
    return numbers.astype(np.int64)


def _demographics(files: FormatFiles) -> dict[int, tuple[str, str]]:
    """Return sex and DICOM age by patient; empty without the table. Its heads span several lines."""
    found = files.find(rf"(^|/){DEMOGRAPHICS}$")
    if not found:
        return {}
    table = files.table(found[0], ())
    heads = {
        key: name for name in table.columns for key in ("patient", "age", "gender") if name.lower().startswith(key)
    }
    people = {}
    for row in table.to_dict("records"):
        number = str(row.get(heads.get("patient", ""), ""))
        if not number.isdecimal():
            continue
        years = pd.to_numeric(str(row.get(heads.get("age", ""), "")), errors="coerce")
        age = f"{int(years):03d}Y" if 0 <= years < 1000 else ""
        people[int(number)] = str(row.get(heads.get("gender", ""), ""))[:1].upper(), age
    return {number: (sex if sex in ("F", "M") else "", age) for number, (sex, age) in people.items()}


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica; the table of people also has those without a scan."""
    numbers = (number for number in range(FIRST, 10_000) if number not in WITHOUT_SCAN)
    rows: list[tuple[object, ...]] = []
    people = [(number, "", "") for number in WITHOUT_SCAN]
    for index, (number, study) in enumerate(zip(numbers, replica_studies(options, progress), strict=False)):
        write_volume(folder / "ct_scans" / f"{number:03d}.nii", study.hu, study)
        write_volume(folder / "masks" / f"{number:03d}.nii", np.where(study.mask > 0, 255, 0).astype(np.uint8), study)
        people.append((number, f"{20 + 7 * index % 70}.{index % 10}", ("Male", "Female")[index % 2]))
        for position, labels in enumerate(study.labels, start=1):
            by_name = dict(zip(SUBTYPES, labels.tolist(), strict=False))
            subtypes = [by_name[name] for name in SUBTYPES]
            rows.append((number, position, *subtypes, 1 - int(labels[-1]), 0))
    with (folder / DIAGNOSES).open("w", newline="", encoding="ascii") as handle:
        csv.writer(handle).writerows([(PATIENT, SLICE, *COLUMNS, NONE, "Fracture_Yes_No"), *rows])
    with (folder / DEMOGRAPHICS).open("w", newline="", encoding="ascii") as handle:
        csv.writer(handle).writerows([("Patient Number", "Age\n(years)", "Gender"), *sorted(people)])
    return len(rows)


FORMAT: Final = DatasetFormat(
    name="ct-ich",
    title="PhysioNet CT-ICH 1.3.1: 75 NIfTI volumes with labels per slice and binary masks",
    licence="CC BY 4.0",
    read=read,
    write_replica=write_replica,
)
