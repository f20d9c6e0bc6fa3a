"""CQ500: DICOM series of 491 studies, read by three radiologists.

Folders `CQ500CT<N> CQ500CT<N>/Unknown Study/<series>/CT000012.dcm` and the table `reads.csv`, one row per study.
"""

import csv
import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.formats.contract import DatasetFormat, FileIds, FormatContents, ReplicaOptions
from ichx.datasets.formats.dicom_replica import SeriesKind, random_numbers, write_series
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.label_table import LabelTable
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.phantom.study import PhantomStudy
from ichx.text import EXAMPLES, format_count, format_examples

READS: Final = "reads.csv"
READERS: Final = ("R1", "R2", "R3")
ICH: Final = "ICH"
SUBTYPE_COLUMNS: Final = {
    "epidural": "EDH",
    "intraparenchymal": "IPH",
    "intraventricular": "IVH",
    "subarachnoid": "SAH",
    "subdural": "SDH",
}
FLAGS: Final = {
    "BleedLocation-Left": "bleed_left",
    "BleedLocation-Right": "bleed_right",
    "ChronicBleed": "chronic_bleed",
    "Fracture": "fracture",
    "CalvarialFracture": "calvarial_fracture",
    "OtherFracture": "other_fracture",
    "MassEffect": "mass_effect",
    "MidlineShift": "midline_shift",
}
"""Other columns of a reader, and the flags that they become."""
SLICES: Final = r"(^|/)CQ500CT\d+ CQ500CT\d+/.+/[^/]+\.dcm$"
_NUMBER: Final = re.compile(r"CQ500-?CT-?(\d+)$", re.IGNORECASE)
_FOLDER: Final = re.compile(r"(?:^|/)CQ500CT(\d+) CQ500CT\1(?=/)", re.IGNORECASE)

SERIES: Final = (
    SeriesKind("CT Plain 3mm", 1.0, kernel="H31s"),
    SeriesKind("CT PLAIN THIN", 1.0, kernel="H31s", thickness=0.625),
    SeriesKind("CT BONE", 1.0, kernel="H60s"),
    SeriesKind("CT POST CONTRAST", 1.0, kernel="H31s", contrast=True),
    SeriesKind("CT-3D-HEAD", 0.1, kernel="H31s"),
)
"""Series of a study in a replica."""

Float32Array = npt.NDArray[np.float32]


def study_folders(files: FormatFiles) -> dict[int, str]:
    """Return the folder of each study by its number. Raises `InvalidInputError` if there is none, or one twice."""
    zips = files.find(r"(^|/)CQ500-CT-\d+\.zip$")
    slices = files.find(SLICES)
    if zips and not slices:
        raise files.unlike(f"it has {format_count(len(zips), 'zip')}{format_examples(zips)}, which must be unpacked")
    if not slices:
        raise files.unlike("it has no folders like 'CQ500CT0 CQ500CT0/Unknown Study/CT 5mm'")
    folders: dict[int, str] = {}
    twice = []
    for folder in dict.fromkeys(name[: found.end()] for name in slices if (found := _FOLDER.search(name))):
        number = int(folder.rpartition("CQ500CT")[2])
        if number in folders:
            twice.append(f"{folders[number]} and {folder}")
        folders[number] = folder
    if twice:
        raise files.unlike(f"{format_count(len(twice), 'study', 'studies')} twice{format_examples(twice)}")
    return folders


def file_ids(files: FormatFiles) -> dict[str, FileIds]:
    """Return the PatientID of each slice: headers of some copies have others."""
    of_number: dict[str, FileIds] = {}
    ids = {}
    for name in files.find(SLICES):
        if found := _FOLDER.search(name):
            ids[name] = of_number.setdefault(found[1], FileIds(patient=f"CQ500-CT-{int(found[1])}"))
    return ids


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: the folders of studies, and `reads.csv`."""
    folders = study_folders(files)
    reads = read_reads(files, folders)
    majority = reads.majority()
    notes = [
        "Labels are the majority of the readers; `any` is ICH or any subtype"
        f"{reads.differing(majority)}. ChronicBleed is a flag and no label.",
        *reads.notes,
    ]
    if len(unclear := reads.unclear(majority)):
        examples = format_examples(map(str, reads.names[unclear[:EXAMPLES]]), len(unclear))
        count = format_count(len(unclear), "study", "studies")
        notes.append(f"{count} with a bleed, but no majority for a subtype: these are unknown{examples}.")
    return FormatContents(
        include=SLICES,
        ids=file_ids(files),
        labels=(LabelTable(reads.folders, majority, level="study", kind="folder", origin=READS),),
        readers={
            reader: LabelTable(reads.folders, values, level="study", kind="folder", origin=f"{READS}, {reader}")
            for reader, values in reads.values.items()
        },
        flags=reads.flags,
        notes=tuple(notes),
        series="auto",
    )


class Reads:
    """What the readers say of the studies in `reads.csv`."""

    def __init__(self, table: pd.DataFrame, folders: dict[int, str], files: FormatFiles) -> None:
        """Read the rows of studies that have a folder. Raises `InvalidInputError` for invalid names and values."""
        numbers = table["name"].str.extract(_NUMBER, expand=False)
        if numbers.isna().any():
            wrong = table["name"][numbers.isna()].tolist()
            raise files.unlike(
                f"{READS} has {format_count(len(wrong), 'name')} unlike CQ500-CT-0{format_examples(map(repr, wrong))}"
            )
        number = numbers.astype(int)
        if number.duplicated().any():
            wrong = table["name"][number.duplicated()].tolist()
            raise files.unlike(
                f"{READS} has {format_count(len(wrong), 'study', 'studies')} twice{format_examples(wrong)}"
            )
        known = number.isin(list(folders)).to_numpy(bool)
        if not known.any():
            raise files.unlike(f"none of {format_count(len(table), 'study', 'studies')} in {READS} has a folder")
        rows = table[known]
        self.folders = np.array([folders[n] for n in number[known]], object)
        self.names = rows["name"].to_numpy(object)
        self.notes = []
        if unread := sorted(set(folders) - set(number)):
            names = [f"CQ500-CT-{n}" for n in unread]
            self.notes.append(f"{format_count(len(names), 'study', 'studies')} without reads{format_examples(names)}.")
        if lost := int((~known).sum()):
            names = table["name"][~known].tolist()
            self.notes.append(
                f"{format_count(lost, 'study', 'studies')} of {READS} without a folder{format_examples(names)}."
            )
        cells = {
            (reader, column): _values(files, rows, f"{reader}:{column}")
            for reader in READERS
            for column in (ICH, *SUBTYPE_COLUMNS.values(), *FLAGS)
            if f"{reader}:{column}" in rows
        }
        self._ich = {reader: cells[reader, ICH] for reader in READERS}
        self.values: dict[str, Float32Array] = {}
        """(N, 6) by reader; `any` is ICH or any subtype."""
        for reader in READERS:
            columns = [cells[reader, SUBTYPE_COLUMNS[name]] for name in SUBTYPES]
            found = np.stack([*columns, np.fmax.reduce([cells[reader, ICH], *columns])], axis=1)
            self.values[reader] = found.astype(np.float32)
        self.flags = {
            flag: dict(zip(self.folders, _majority(np.stack(of)), strict=True))
            for column, flag in FLAGS.items()
            if (of := [cells[reader, column] for reader in READERS if (reader, column) in cells])
        }

    def majority(self) -> Float32Array:
        """Return the labels (N, 6) of most readers; NaN if none has read, or equally many disagree.

        If most readers see a bleed, but no subtype has a majority, the subtypes that a reader sees are unknown, or all
        of them if none sees one.
        """
        readers = np.stack(list(self.values.values()))
        found = _majority(readers)
        at_any = LABELS.index(ANY)
        ich = _majority(np.stack(list(self._ich.values())))
        found[:, at_any] = np.fmax(ich, np.fmax.reduce(found[:, :at_any], axis=1))
        unclear = self.unclear(found)
        seen = (readers[:, unclear, :at_any] == 1).any(axis=0)
        subtypes = found[unclear, :at_any]
        subtypes[seen | ~seen.any(axis=1, keepdims=True)] = np.nan
        found[unclear, :at_any] = subtypes
        return found

    def unclear(self, majority: Float32Array) -> npt.NDArray[np.int64]:
        """Return the rows of `majority` with a bleed and no subtype."""
        at_any = LABELS.index(ANY)
        return np.flatnonzero((majority[:, at_any] == 1) & ~(majority[:, :at_any] == 1).any(axis=1))

    def differing(self, majority: Float32Array) -> str:
        """Return how many studies have a subtype without ICH, for a message."""
        ich = _majority(np.stack(list(self._ich.values())))
        rows = np.flatnonzero((majority[:, LABELS.index(ANY)] == 1) & (ich == 0))
        if not len(rows):
            return ""
        examples = format_examples(map(str, self.names[rows[:EXAMPLES]]), len(rows))
        return f", which differs from ICH in {format_count(len(rows), 'study', 'studies')}{examples}"


def read_reads(files: FormatFiles, folders: dict[int, str]) -> Reads:
    """Return what `reads.csv` says of the studies in `folders`."""
    columns = ("name", *(f"{reader}:{column}" for reader in READERS for column in (ICH, *SUBTYPE_COLUMNS.values())))
    return Reads(files.table(files.one(rf"(^|/){READS}$", READS), columns), folders, files)


def _values(files: FormatFiles, rows: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """Return a column of 0 and 1, NaN where it is empty."""
    texts = rows[column]
    values = pd.to_numeric(texts.where(texts != "", None), errors="coerce").to_numpy(np.float64)
    if len(wrong := np.flatnonzero((texts != "").to_numpy() & ~np.isin(values, (0, 1)))):
        cells = [f"{rows['name'].iloc[i]}: {texts.iloc[i]!r}" for i in wrong[:EXAMPLES]]
        raise files.unlike(f"{READS} has values other than 0 and 1 in {column}{format_examples(cells, len(wrong))}")
    return values


def _majority(values: npt.NDArray[np.floating]) -> Float32Array:
    """Return the majority over the first axis; NaN for no value or a tie."""
    positive, negative = (values == 1).sum(axis=0), (values == 0).sum(axis=0)
    return np.where(positive > negative, 1, np.where(negative > positive, 0, np.nan)).astype(np.float32)


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica: five series per study, of which one is axial, plain and soft."""
    studies = list(replica_studies(options, progress))
    slices = sum(write_study(folder, number, study) for number, study in enumerate(studies))
    write_reads(folder, [study.labels.max(axis=0) for study in studies], options.seed)
    return slices


def write_study(folder: Path, number: int, study: PhantomStudy, series: tuple[SeriesKind, ...] = SERIES) -> int:
    """Write the series of a study; return the number of slices."""
    name = f"CQ500CT{number}"
    top = folder / f"{name} {name}" / "Unknown Study"
    return sum(write_series(top / kind.folder, f"CQ500-CT-{number}", study, kind) for kind in series)


def write_reads(folder: Path, labels: list[npt.NDArray[np.uint8]], seed: int) -> None:
    """Write `reads.csv` for studies with `labels` (6,): each reader errs in some; the third forgets ICH at times."""
    columns = (ICH, *("IPH", "IVH", "SDH", "EDH", "SAH"), *FLAGS)
    by_column = {column: name for name, column in SUBTYPE_COLUMNS.items()}
    rows = [["name", "Category", *(f"{reader}:{column}" for reader in READERS for column in columns)]]
    for number, truth in enumerate(labels):
        cells = [f"CQ500-CT-{number}", "B1" if number % 2 else "B2"]
        for reader in range(len(READERS)):
            draw = random_numbers(seed, number, reader)
            found = {name: int(truth[LABELS.index(name)] != (draw.random() < 0.05)) for name in SUBTYPES}
            ich = int(any(found.values()) and not draw.random() < 0.02)
            read = {ICH: ich} | {column: found[name] for column, name in by_column.items()}
            cells += [str(read.get(column, int(draw.random() < 0.1))) for column in columns]
        rows.append(cells)
    with (folder / READS).open("w", newline="", encoding="ascii") as handle:
        csv.writer(handle).writerows(rows)


FORMAT: Final = DatasetFormat(
    name="cq500",
    title="CQ500: DICOM series of 491 studies, labels per study by three readers",
    licence="CC BY-NC-SA 4.0 and the publisher's agreement",
    read=read,
    write_replica=write_replica,
)
