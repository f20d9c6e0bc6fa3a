"""What there is to tell a person whose files become a dataset: messages of what was found, warnings of what to look at.

Not for counting it (`ichx.datasets.summary`) or for showing it (`ichx.cli.data_views`).
"""

from typing import Any

import pandas as pd

from ichx.datasets.id_matching import Match
from ichx.datasets.label_csv import LabelTable
from ichx.datasets.series import FLAGS, flag_examples
from ichx.text import counted, such_as


def catalog_told(catalog: pd.DataFrame, slices: pd.DataFrame, summary: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the messages and warnings that `catalog`, its usable `slices` and their `summary` give rise to."""
    parts = (
        counted(summary["slices"], "slice"),
        counted(summary["patients"], "patient"),
        counted(summary["studies"], "study", "studies"),
        counted(summary["series"], "series", "series"),
    )
    messages, warnings = [f"{counted(summary['files'], 'file')}: {', '.join(parts)}"], []
    if summary["defects"]:
        told = ", ".join(f"{reason} {count:,}" for reason, count in summary["defects"].items())
        what = "file or frame" if (catalog["frame"] > 0).any() else "file"
        many = what.replace("file", "files").replace("frame", "frames")
        warnings.append(f"left out: {counted(sum(summary['defects'].values()), what, many)}: {told}")
    if count := summary["no_patient_id"]:
        warnings.append(f"{counted(count, 'slice')} without a PatientID: grouped by study, by series or alone")
    for flag, counts in summary["geometry"].items():
        what = f"{counted(counts['series'], 'series', 'series')}, {counted(counts['slices'], 'slice')}"
        warnings.append(f"{what}: {FLAGS[flag]}, {such_as(flag_examples(slices, flag), counts['series'])}")
    if count := summary["window_missing"]:
        warnings.append(f"{counted(count, 'slice')} without a usable window: the brain window [40, 80] stands in")
    if count := summary["intercept_repaired"]:
        messages.append(f"{counted(count, 'slice')} with a wrong intercept: repaired")
    return messages, warnings


def tell_labels(
    table: LabelTable, match: Match, summary: dict[str, Any], messages: list[str], warnings: list[str]
) -> None:
    """Add to `messages`, `warnings` and `summary` how the labels of `table` fit the catalog."""
    messages.append(f"labels of {counted(len(table.images), 'image')}, matched by {match.told}")
    if table.merged:
        messages.append(f"{counted(table.merged, 'row')} of the label CSV said again what others had said: merged")
    if match.absent:
        told = such_as(match.absent_examples, match.absent)
        warnings.append(f"{counted(match.absent, 'labelled image')} in no file, {told}")
    if match.defective:
        warnings.append(f"{counted(match.defective, 'labelled image')} in files that are left out")
    if table.any_differs:
        told = such_as(table.any_examples, table.any_differs)
        warnings.append(f"{counted(table.any_differs, 'image')} whose `any` is not the maximum of the subtypes, {told}")
    summary["labels_by"], summary["labels_merged"] = match.by, table.merged
    summary["labels_absent"], summary["any_differs"] = match.absent, table.any_differs


def tell_sample(facts: dict[str, Any], match: Match, messages: list[str], warnings: list[str]) -> None:
    """Add to `messages` and `warnings` how the sample that `facts` describe fits the catalog."""
    asked = f"{counted(facts['ids'], 'id')} of {counted(facts['images'], 'image')}"
    messages.append(f"sample: {asked}, matched by {match.told}")
    if facts["absent"]:
        told = such_as(match.absent_examples, facts["absent"])
        warnings.append(f"{counted(facts['absent'], 'image')} of the sample in no file, {told}")
    if facts["defective"]:
        warnings.append(f"{counted(facts['defective'], 'image')} of the sample in files that are left out")
    if facts["not_asked"]:
        warnings.append(f"{counted(facts['not_asked'], 'slice')} not in the sample")


def shared_told(test: pd.DataFrame, train: pd.DataFrame, name: str) -> list[str]:
    """Return a warning where slices or patients of a test set are in the training set `name`, too; else nothing."""
    slices = set(test["slice_id"]) & set(train["slice_id"])
    patients = set(test["patient"]) & set(train["patient"])
    if not patients and not slices:
        return []
    told = f"{counted(len(slices), 'slice')} and {counted(len(patients), 'patient')} are in {name} as well"
    return [f"{told}: what is predicted here was trained on, so no score of it is one of unseen patients"]
