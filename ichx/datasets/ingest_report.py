"""Messages and warnings about the files, labels, masks and sample of a new version. They are shown by `ichx.cli`."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ichx.datasets.id_matching import IdMatch
from ichx.datasets.label_csv import LabelTable
from ichx.datasets.series import FLAGS, flag_examples
from ichx.text import counted, such_as


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

    def add_catalog(self, catalog: pd.DataFrame, slices: pd.DataFrame, summary: dict[str, Any]) -> None:
        """Report the counts of `catalog`, its excluded files, and the geometry of its usable `slices`."""
        parts = (
            counted(summary["slices"], "slice"),
            counted(summary["patients"], "patient"),
            counted(summary["studies"], "study", "studies"),
            counted(summary["series"], "series", "series"),
        )
        self.inform(f"{counted(summary['files'], 'file')}: {', '.join(parts)}.")
        if defects := summary["defects"]:
            frames = (catalog["frame"] > 0).any()
            what = ("file or frame", "files or frames") if frames else ("file", "files")
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in defects.items())
            self.warn(f"Excluded {counted(sum(defects.values()), *what)}: {reasons}.")
        if count := summary["no_patient_id"]:
            self.warn(f"{counted(count, 'slice')} without a PatientID: grouped by study, by series or alone.")
        for flag, counts in summary["geometry"].items():
            what = f"{counted(counts['series'], 'series', 'series')}, {counted(counts['slices'], 'slice')}"
            self.warn(f"{what}: {FLAGS[flag]} ({such_as(flag_examples(slices, flag), counts['series'])}).")
        if count := summary["window_missing"]:
            self.warn(f"{counted(count, 'slice')} without a usable window: replaced by the brain window [40, 80].")
        if count := summary["intercept_repaired"]:
            self.inform(f"Repaired the intercept of {counted(count, 'slice')}.")

    def add_match(self, subject: str, match: IdMatch, *noun: str) -> None:
        """Report how the ids of `subject` match the slices; `noun` is what an id stands for, and its plural."""
        self.inform(f"{subject}, matched by {match.by_name}.")
        if match.absent:
            self.warn(f"{counted(match.absent, *noun)} without a slice ({such_as(match.absent_examples, match.absent)}).")
        if match.defective:
            self.warn(f"{counted(match.defective, *noun)} whose file is excluded.")

    def add_labels(self, table: LabelTable, match: IdMatch) -> None:
        """Report the labels of `table` and how they match the slices."""
        self.add_match(f"Labels of {counted(len(table.images), 'image')}", match, "labelled image")
        if table.duplicates:
            self.inform(f"Merged {counted(table.duplicates, 'duplicate row')} of the label CSV.")
        if table.any_differs:
            images = f"{counted(table.any_differs, 'image')} whose `any` is not the maximum of the subtypes"
            self.warn(f"{images} ({such_as(table.any_examples, table.any_differs)}).")

    def add_sample(self, sample: dict[str, Any], match: IdMatch) -> None:
        """Report the counts of a sample submission and how it matches the slices."""
        subject = f"Sample of {counted(sample['ids'], 'id')} of {counted(sample['images'], 'image')}"
        self.add_match(subject, match, "image of the sample", "images of the sample")
        if sample["not_asked"]:
            self.warn(f"{counted(sample['not_asked'], 'slice')} not in the sample.")

    def add_shared(self, test: pd.DataFrame, train: pd.DataFrame, name: str) -> None:
        """Warn of slices and patients of a test set that are also in the training set `name`."""
        slices = set(test["slice_id"]) & set(train["slice_id"])
        patients = set(test["patient"]) & set(train["patient"])
        if patients or slices:
            self.warn(
                f"{counted(len(slices), 'slice')} and {counted(len(patients), 'patient')} are also in {name}: "
                "scores of this test set are too good."
            )
