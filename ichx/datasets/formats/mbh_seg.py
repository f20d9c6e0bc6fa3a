"""MBH-Seg: NIfTI volumes of RSNA 2019 studies, labels per study, and masks of one or several raters."""

import csv
import re
from pathlib import Path
from typing import Final

import numpy as np

from ichx.datasets.formats.bhsd import MASK_VALUES
from ichx.datasets.formats.contract import DatasetFormat, FormatContents, ReplicaOptions
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.replica import replica_studies
from ichx.datasets.formats.rsna_volumes import RSNA_NOTE, STUDY, rsna_ids, rsna_name
from ichx.datasets.formats.volume_files import common_folder, mask_pairs, relative, unlabelled_note, write_volume
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.label_table import LabelTable
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.text import EXAMPLES, format_count, format_examples

CASES: Final = "case-wise_annotation.csv"
STUDY_COLUMN: Final = "patientID_studyID"
RATERS: Final = (1, 5)
"""Raters of the replica."""


def read(files: FormatFiles) -> FormatContents:
    """Return the contents of a source: `ID_x_ID_y/image.nii.gz` and `label_annot_N.nii.gz`, and the table of cases."""
    image = rf"(^|/){STUDY}/image\.nii(\.gz)?$"
    found = files.require(image, "volumes ID_x_ID_y/image.nii.gz")
    folder = common_folder(files, found, depth=2)
    volumes = {name.split("/")[-2]: relative(name, folder) for name in found}
    raters: dict[str, list[tuple[int, str]]] = {}
    for name in files.find(rf"(^|/){STUDY}/label_annot_\d+\.nii(\.gz)?$"):
        rater = int(re.findall(r"label_annot_(\d+)", name)[-1])
        raters.setdefault(name.split("/")[-2], []).append((rater, name))
    masks = {case: sorted(of_case)[0][1] for case, of_case in raters.items() if case in volumes}
    notes = [RSNA_NOTE]
    if several := sorted(case for case in masks if len(raters[case]) > 1):
        count = format_count(len(several), "volume")
        notes.append(f"{count} with masks of several raters: the one with the lowest number counts.")
    tables = files.find(rf"(^|/){CASES}$")
    cases = sorted(set(volumes) - set(masks))
    labels = _labels(files, tables[0], set(cases)) if tables and cases else ()
    if cases and not tables:
        notes += unlabelled_note(cases)
    return FormatContents(
        folder=folder,
        include=image,
        ids={name: rsna_ids(case) for case, name in volumes.items()},
        labels=labels,
        masks=mask_pairs(volumes, masks),
        mask_values=MASK_VALUES,
        labels_from_masks=bool(masks),
        notes=tuple(notes),
    )


def _labels(files: FormatFiles, name: str, cases: set[str]) -> tuple[LabelTable, ...]:
    """Return the labels of the studies in `cases`; studies with a mask have labels per slice."""
    table = files.table(name, (STUDY_COLUMN, *LABELS))
    table = table[table[STUDY_COLUMN].isin(cases)].drop_duplicates().reset_index(drop=True)
    if table[STUDY_COLUMN].duplicated().any():
        repeated = table.loc[table[STUDY_COLUMN].duplicated(), STUDY_COLUMN].unique()
        count = format_count(len(repeated), "study", "studies")
        raise files.unlike(f"{CASES} has rows that disagree of {count}{format_examples(map(str, repeated))}")
    if table.empty:
        return ()
    cells = table[list(LABELS)].to_numpy(object)
    if len(wrong := np.flatnonzero(~np.isin(cells, ("0", "1", "0.0", "1.0")).all(axis=1))):
        rows = [str(table[STUDY_COLUMN].iloc[row]) for row in wrong[:EXAMPLES]]
        raise files.unlike(f"{CASES} has values other than 0 and 1{format_examples(rows, len(wrong))}")
    ids = np.array([rsna_ids(case).study for case in table[STUDY_COLUMN]], object)
    values = cells.astype(np.float32)
    differs = np.flatnonzero(values[:, :-1].max(axis=1) != values[:, -1])
    examples = tuple(map(str, ids[differs[:EXAMPLES]]))
    return (LabelTable(ids, values, "study", "StudyInstanceUID", CASES, 0, len(differs), examples),)


def write_replica(folder: Path, options: ReplicaOptions, progress: ProgressCallback) -> int:
    """Write a replica: every second study has masks of two raters, all are in the table."""
    rows: list[tuple[object, ...]] = []
    slices = 0
    for number, study in enumerate(replica_studies(options, progress)):
        name = rsna_name(options.seed, number)
        write_volume(folder / name / "image.nii.gz", study.hu, study)
        for rater in RATERS if number % 2 else ():
            write_volume(folder / name / f"label_annot_{rater}.nii.gz", study.mask, study)
        by_name = dict(zip(LABELS, study.labels.max(axis=0).tolist(), strict=True))
        rows.append((name, by_name[ANY], *(by_name[subtype] for subtype in SUBTYPES)))
        slices += len(study.hu)
    with (folder / CASES).open("w", newline="", encoding="ascii") as handle:
        csv.writer(handle).writerows([(STUDY_COLUMN, ANY, *SUBTYPES), *rows])
    return slices


FORMAT: Final = DatasetFormat(
    name="mbh-seg",
    title="MBH-Seg 2025: NIfTI volumes of RSNA 2019 with labels per study, some with masks of several raters",
    licence="not stated; images under RSNA's terms, non-commercial",
    read=read,
    write_replica=write_replica,
)
