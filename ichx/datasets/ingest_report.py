"""Messages and warnings about the files, labels, masks and sample of a new version. They are shown by `ichx.cli`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ichx.datasets.id_matching import COLUMN_NAMES, IdMatch
from ichx.datasets.label_join import JoinedLabels, TableMatch
from ichx.datasets.series import describe_geometry
from ichx.datasets.series_selection import SeriesSelection
from ichx.datasets.subgroups import unusual_studies
from ichx.datasets.summary import describe_assumptions, format_defects
from ichx.datasets.unscored_labels import unscored_labels
from ichx.datasets.volumes import SUFFIX
from ichx.labels import LABELS
from ichx.text import EXAMPLES, format_count, format_examples


def reading_warnings(slices: pd.DataFrame) -> list[str]:
    """Return a warning for each geometry flag and each assumption of `slices`, which are usable slices of a catalog."""
    warnings = []
    for found in describe_geometry(slices):
        where = f"{format_count(found['series'], 'series', 'series')}, {format_count(found['slices'], 'slice')}"
        examples = format_examples(found["examples"], found["series"])
        warnings.append(f"Geometry flag `{found['flag']}` ({found['meaning']}) in {where}{examples}.")
    for found in describe_assumptions(slices):
        where = f"{format_count(found['slices'], 'slice')}{format_examples(found['examples'], found['slices'])}"
        warnings.append(f"Assumption `{found['assumption']}` ({found['meaning']}) in {where}.")
    return warnings


@dataclass
class IngestReport:
    """Collects what `add_dataset` reports."""

    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def inform(self, message: str) -> None:
        """Add a message."""
        self.messages.append(message)

    def warn(self, warning: str) -> None:
        """Add a warning."""
        self.warnings.append(warning)

    def add_notes(self, name: str, notes: Iterable[str]) -> None:
        """Report the `notes` of the format `name`."""
        self.messages += [f"{name}: {note}" for note in notes]

    def add_catalog(self, catalog: pd.DataFrame, slices: pd.DataFrame, summary: dict[str, Any]) -> None:
        """Report the counts of `catalog`, its excluded files, and the geometry of its usable `slices`."""
        parts = (
            format_count(summary["slices"], "slice"),
            format_count(summary["patients"], "patient"),
            format_count(summary["studies"], "study", "studies"),
            format_count(summary["series"], "series", "series"),
        )
        self.inform(f"{format_count(summary['files'], 'file')}: {', '.join(parts)}.")
        if defects := summary["defects"]:
            frames = (catalog["frame"] > 0).any()
            what = ("file or frame", "files or frames") if frames else ("file", "files")
            self.warn(f"Excluded {format_count(sum(defects.values()), *what)}: {format_defects(catalog)}.")
        self._add_volumes(catalog)
        self.add_ids(summary)
        self.add_acquisition(slices, summary)
        for warning in reading_warnings(slices):
            self.warn(warning)

    def _add_volumes(self, catalog: pd.DataFrame) -> None:
        """Name NIfTI files that were excluded as a whole."""
        excluded = catalog[catalog["defect"].notna() & (catalog["frame"] == 0)]
        excluded = excluded[excluded["file"].str.contains(SUFFIX)]
        if len(excluded):
            rows = excluded[["file", "defect", "detail"]].head(EXAMPLES).itertuples(index=False)
            examples = [f"{file} ({detail or defect})" for file, defect, detail in rows]
            count = format_count(len(excluded), "NIfTI file")
            self.warn(f"Excluded {count}{format_examples(examples, len(excluded))}.")

    def add_selection(self, selection: SeriesSelection) -> None:
        """Report which series were selected, and which were left out and why."""
        of = format_count(selection.series, "series", "series")
        self.inform(
            f"Selected {selection.selected:,} of {of} in {format_count(selection.studies, 'study', 'studies')}."
        )
        for reason, (count, examples) in selection.reasons.items():
            left_out = format_count(count, "series", "series")
            self.inform(f"Left out {left_out} ({reason}){format_examples(examples, count)}.")
        if count := len(selection.without):
            studies = format_count(count, "study", "studies")
            self.warn(f"{studies} without a suitable series{format_examples(selection.without, count)}.")

    def add_acquisition(self, slices: pd.DataFrame, summary: dict[str, Any]) -> None:
        """Report studies with contrast or of another body part, and implausible ages."""
        for found, what in unusual_studies(slices):
            self.warn(f"{format_count(len(found), 'study', 'studies')} {what}{format_examples(found, len(found))}.")
        if count := summary["implausible_ages"]:
            self.warn(f"{format_count(count, 'slice')} with an implausible PatientAge: the age is unknown.")

    def add_ids(self, summary: dict[str, Any]) -> None:
        """Report ids that are missing, shared or ignored; see `ichx.datasets.identity`."""
        if summary.get("group_by") == "study":
            self.warn(
                "Each study counts as a patient (`--group-by study`): studies of one patient may be in different folds."
            )
        elif count := summary["no_patient_id"]:
            self.warn(f"{format_count(count, 'slice')} without a PatientID: grouped by study, by series or alone.")
        if count := summary["no_series_id"]:
            self.warn(f"{format_count(count, 'slice')} without a SeriesInstanceUID: those of a study are one series.")
        if count := summary["shared_studies"]:
            self.warn(f"{count:,} StudyInstanceUID of many patients: the slices of each patient are one study.")
        if count := summary["shared_series"]:
            self.warn(f"{count:,} SeriesInstanceUID in several studies: the slices of each study are one series.")
        if count := summary["joined_patients"]:
            groups = format_count(summary["joined_groups"], "patient")
            self.warn(f"{format_count(count, 'patient')} that share studies or series count as {groups}.")

    def add_match(self, subject: str, match: IdMatch, *noun: str) -> None:
        """Report how the ids of `subject` match the slices; `noun` is what an id stands for, and its plural."""
        self.inform(f"{subject}, matched by {COLUMN_NAMES.get(match.by, match.by)}.")
        if match.absent:
            examples = format_examples(match.absent_examples, match.absent)
            self.warn(f"{format_count(match.absent, *noun)} without a slice{examples}.")
        if match.defective:
            self.warn(f"{format_count(match.defective, *noun)} whose file is excluded.")

    def add_labels(self, joined: JoinedLabels, slices: pd.DataFrame) -> None:
        """Report the labels of each table, how they match the files, and how many labels of `slices` are known."""
        for match in joined.matches:
            self._add_table(match)
        if (counts := joined.counts(slices)) is None:
            return
        for unit, by_label in counts.items():
            if unit == "level":
                continue
            nouns = (
                ("slice",)
                if unit == "slices"
                else {"series": ("series",) * 2}.get(counts["level"], ("study", "studies"))
            )
            known = [f"{name} {c['known']:,} ({c['positive']:,} positive)" for name, c in by_label.items()]
            total = next(c["known"] + c["unknown"] for c in by_label.values())
            self.inform(f"Known labels of {format_count(total, *nouns)}: {', '.join(known)}.")
        one_sided = [name for name, c in counts["slices"].items() if c["known"] and c["positive"] == c["known"]]
        if one_sided and joined.groups is None:
            self.warn(
                f"Known for positive slices only: {', '.join(one_sided)}. A network cannot learn when they are absent, "
                "and its predictions of them are of no use."
            )
        if left_out := [name for name in unscored_labels(slices) if name not in one_sided]:
            self.warn(f"Known only where `any` is 0, and left out of scores: {', '.join(left_out)}.")
        unlabelled = np.isnan(slices[list(LABELS)].to_numpy(np.float32)).all(axis=1)
        if joined.groups is not None:
            unlabelled &= ~slices["study"].isin(joined.groups["study"]).to_numpy()
        if count := int(unlabelled.sum()):
            studies = format_count(slices["study"][unlabelled].nunique(), "study", "studies")
            self.warn(f"{format_count(count, 'slice')} of {studies} without any label: they are not trained on.")

    def _add_table(self, found: TableMatch) -> None:
        table, group = found.table, found.group
        nouns = {"slice": ("labelled image",), "study": ("labelled study", "labelled studies")}
        nouns |= {"series": ("labelled series", "labelled series"), "patient": ("labelled patient",)}
        noun = nouns["slice" if group is None else group.level]
        ids = format_count(len(table.ids), *(part.removeprefix("labelled ") for part in noun))
        self.add_match(f"Labels of {ids}", found.match, *noun)
        if group is not None and group.several:
            self.warn(
                f"{format_count(len(group.several), 'positive patient')} with several studies: which of them is "
                f"positive is unknown{format_examples(group.several)}."
            )
        if table.duplicates:
            self.inform(f"Merged {format_count(table.duplicates, 'duplicate row')} of the label CSV.")
        if table.any_computed:
            certain = ", where these are certain" if table.partial else ""
            self.inform(f"The label CSV has no `any`: it is the maximum of the subtypes{certain}.")
        if table.any_differs:
            images = f"{format_count(table.any_differs, noun[0].removeprefix('labelled '))} whose `any` is not the"
            examples = format_examples(table.any_examples, table.any_differs)
            self.warn(f"{images} maximum of the subtypes{examples}.")

    def add_sample(self, sample: dict[str, Any], match: IdMatch) -> None:
        """Report the counts of a sample submission and how it matches the slices."""
        subject = f"Sample of {format_count(sample['ids'], 'id')} of {format_count(sample['images'], 'image')}"
        self.add_match(subject, match, "image of the sample", "images of the sample")
        if sample["not_asked"]:
            self.warn(f"{format_count(sample['not_asked'], 'slice')} not in the sample.")

    def add_shared(self, name: str, slices: int, patients: int) -> None:
        """Warn of `slices` and `patients` of a test set that are also in the training set `name`."""
        if patients or slices:
            shared = f"{format_count(slices, 'slice')} and {format_count(patients, 'patient')}"
            self.warn(f"{shared} are also in {name}: scores of this test set are too good.")
