"""What there is to tell a person whose files become a dataset: messages of what was found, warnings of what to look at.

Not for counting it (`ichx.datasets.summary`) or for showing it (`ichx.cli.data_views`).
"""

from typing import Any

import pandas as pd

from ichx.datasets.id_matching import Match
from ichx.datasets.label_csv import LabelTable
from ichx.datasets.series import FLAGS, flag_examples
from ichx.text import format_count, format_examples


def catalog_told(catalog: pd.DataFrame, slices: pd.DataFrame, summary: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the messages and warnings that `catalog`, its usable `slices` and their `summary` give rise to."""
    parts = (
        format_count(summary["slices"], "slice"),
        format_count(summary["patients"], "patient"),
        format_count(summary["studies"], "study", "studies"),
        format_count(summary["series"], "series", "series"),
    )
    messages, warnings = [f"{format_count(summary['files'], 'file')}: {', '.join(parts)}"], []
    if summary["defects"]:
        told = ", ".join(f"{reason} {count:,}" for reason, count in summary["defects"].items())
        what = "file or frame" if (catalog["frame"] > 0).any() else "file"
        many = what.replace("file", "files").replace("frame", "frames")
        warnings.append(f"left out: {format_count(sum(summary['defects'].values()), what, many)}: {told}")
    if count := summary["no_patient_id"]:
        warnings.append(f"{format_count(count, 'slice')} without a PatientID: grouped by study, by series or alone")
    for flag, counts in summary["geometry"].items():
        what = f"{format_count(counts['series'], 'series', 'series')}, {format_count(counts['slices'], 'slice')}"
        warnings.append(f"{what}: {FLAGS[flag]}{format_examples(flag_examples(slices, flag), counts['series'])}")
    if count := summary["window_missing"]:
        warnings.append(f"{format_count(count, 'slice')} without a usable window: the brain window [40, 80] stands in")
    if count := summary["intercept_repaired"]:
        messages.append(f"{format_count(count, 'slice')} with a wrong intercept: repaired")
    return messages, warnings


def tell_labels(
    table: LabelTable, match: Match, summary: dict[str, Any], messages: list[str], warnings: list[str]
) -> None:
    """Add to `messages`, `warnings` and `summary` how the labels of `table` fit the catalog."""
    messages.append(f"labels of {format_count(len(table.images), 'image')}, matched by {match.told}")
    if table.merged:
        messages.append(f"{format_count(table.merged, 'row')} of the label CSV said again what others had said: merged")
    if match.absent:
        told = format_examples(match.absent_examples, match.absent)
        warnings.append(f"{format_count(match.absent, 'labelled image')} in no file{told}")
    if match.defective:
        warnings.append(f"{format_count(match.defective, 'labelled image')} in files that are left out")
    if table.any_differs:
        told = format_examples(table.any_examples, table.any_differs)
        warnings.append(
            f"{format_count(table.any_differs, 'image')} whose `any` is not the maximum of the subtypes {told}"
        )
    summary["labels_by"], summary["labels_merged"] = match.by, table.merged
    summary["labels_absent"], summary["any_differs"] = match.absent, table.any_differs


def tell_sample(facts: dict[str, Any], match: Match, messages: list[str], warnings: list[str]) -> None:
    """Add to `messages` and `warnings` how the sample that `facts` describe fits the catalog."""
    asked = f"{format_count(facts['ids'], 'id')} of {format_count(facts['images'], 'image')}"
    messages.append(f"sample: {asked}, matched by {match.told}")
    if facts["absent"]:
        told = format_examples(match.absent_examples, facts["absent"])
        warnings.append(f"{format_count(facts['absent'], 'image')} of the sample in no file{told}")
    if facts["defective"]:
        warnings.append(f"{format_count(facts['defective'], 'image')} of the sample in files that are left out")
    if facts["not_asked"]:
        warnings.append(f"{format_count(facts['not_asked'], 'slice')} not in the sample")


def shared_told(test: pd.DataFrame, train: pd.DataFrame, name: str) -> list[str]:
    """Return a warning where slices or patients of a test set are in the training set `name`, too; else nothing."""
    slices = set(test["slice_id"]) & set(train["slice_id"])
    patients = set(test["patient"]) & set(train["patient"])
    if not patients and not slices:
        return []
    told = f"{format_count(len(slices), 'slice')} and {format_count(len(patients), 'patient')} are in {name} as well"
    return [f"{told}: what is predicted here was trained on, so no score of it is one of unseen patients"]
