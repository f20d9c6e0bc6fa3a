"""Joining label tables to a catalog: slices get the labels that are certain, studies and series theirs.

A label 0 of a study, series or patient makes all of its slices 0. A label 1 leaves slices unknown, except in a group of
one slice, and is kept as the label of the group (`study_labels`). Ids of groups are matched in `group_matching`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.group_matching import GroupMatch, ReadAccession, find_kind, match_groups
from ichx.datasets.id_matching import IdMatch, match_images
from ichx.datasets.label_table import LabelTable, count_labels, derive_labels
from ichx.errors import InvalidInputError
from ichx.labels import LABELS
from ichx.text import EXAMPLES, format_count, format_examples

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TableMatch:
    """How a table's ids match the files."""

    table: LabelTable
    match: IdMatch
    group: GroupMatch | None = None
    """The groups of a table that is not of slices."""


@dataclass(frozen=True)
class JoinedLabels:
    """A catalog with labels."""

    catalog: pd.DataFrame
    groups: pd.DataFrame | None
    """Labels of studies and series, see `study_labels`; None if all tables are of slices."""
    matches: tuple[TableMatch, ...]
    partial: bool
    """Whether usable slices may lack labels: a table has unknown labels or is not of slices."""

    def summary(self, slices: pd.DataFrame) -> dict[str, Any]:
        """Return what the summary of a version records of its labels, given its usable slices."""
        found: dict[str, Any] = {
            "labels_by": self.matches[0].match.by,
            "labels_merged": sum(match.table.duplicates for match in self.matches),
            "labels_absent": sum(match.match.absent for match in self.matches),
            "any_differs": sum(match.table.any_differs for match in self.matches),
        }
        counts = self.counts(slices)
        return found if counts is None else found | {"label_counts": counts}

    def counts(self, slices: pd.DataFrame) -> dict[str, Any] | None:
        """Return the numbers of known, positive and unknown labels of `slices` and groups; None if all are known."""
        if not self.partial:
            return None
        found: dict[str, Any] = {"slices": count_labels(slices[list(LABELS)].to_numpy(np.float32))}
        if self.groups is not None:
            found["groups"] = count_labels(self.groups[list(LABELS)].to_numpy(np.float32))
            found["level"] = "series" if (self.groups["series"] != "").all() else "study"
        return found


def join_label_tables(
    catalog: pd.DataFrame, scan: pd.DataFrame, tables: Sequence[LabelTable], accession: ReadAccession | None = None
) -> JoinedLabels:
    """Return `catalog` with the labels of `tables`.

    A usable slice without any label has the defect `no_label` if all tables are complete and of slices.

    Args:
        catalog: Without labels.
        scan: What the catalog was built from, with the ids of the files; the same rows.
        tables: At least one; they may complement, but not contradict each other.
        accession: Returns the AccessionNumber of each row, for tables with such ids.

    Raises:
        InvalidInputError: No id of a table matches, an id matches several groups, or tables contradict each other.
    """
    good = catalog["defect"].isna().to_numpy()
    values = np.full((len(catalog), len(LABELS)), np.nan, np.float32)
    groups: list[pd.DataFrame] = []
    matches = []
    for table in tables:
        kind = table.kind or find_kind(scan, table.ids, good, accession)
        complete = replace(table, values=derive_labels(table.values), kind=kind)
        if complete.kind == "SOPInstanceUID":
            match = match_images(catalog, complete.ids, complete.origin)
            matches.append(TableMatch(table, match))
            found = np.where((match.image >= 0)[:, None], complete.values[match.image], np.nan).astype(np.float32)
        else:
            group = match_groups(catalog, scan, complete, accession)
            matches.append(TableMatch(table, group.ids, group))
            found = _certain(complete.values, group.row_id, group.row_group)
            if group.level != "slice":
                groups.append(group.labels(catalog, complete.values))
        values = _merged(catalog, values, found, table.origin)
    partial = bool(groups) or any(match.table.partial for match in matches)
    values = derive_labels(values)
    values[~good & np.isnan(values).all(axis=1)] = np.nan
    joined = catalog.assign(**{name: values[:, i] for i, name in enumerate(LABELS)})
    if not partial:
        joined.loc[np.isnan(values).all(axis=1) & good, "defect"] = "no_label"
    labelled = None
    if groups:
        labelled = _merge_groups(groups, tables[-1].origin)
        _check_positive_groups(joined[good], labelled, tables[-1].origin)
    if np.isnan(values[good]).all() and (labelled is None or labelled[list(LABELS)].isna().all(axis=None)):
        raise InvalidInputError(
            f"No label is known: {tables[-1].origin} has only empty cells for the matching files.",
            "Fill in labels, or name other columns. Formulas without a stored result are empty: open the spreadsheet "
            "and save it.",
        )
    return JoinedLabels(joined, labelled, tuple(matches), partial)


def _certain(labels: Float32Array, row_id: npt.NDArray[np.int64], row_group: npt.NDArray[np.int64]) -> Float32Array:
    """Return the labels of rows (N, 6) that follow from those of their groups: zeros, and all of a group of one row."""
    found = np.where((row_id >= 0)[:, None], labels[row_id], np.nan).astype(np.float32)
    sizes = np.bincount(row_group[row_group >= 0]) if (row_group >= 0).any() else np.zeros(1, np.int64)
    alone = (row_group >= 0) & (sizes[row_group] == 1)
    found[(found != 0) & ~alone[:, None]] = np.nan
    return found


def _merged(catalog: pd.DataFrame, before: Float32Array, found: Float32Array, origin: str) -> Float32Array:
    """Return `before` completed by `found`; raise `InvalidInputError` if known labels disagree."""
    differs = (before != found) & ~np.isnan(before) & ~np.isnan(found)
    if differs.any():
        rows = np.flatnonzero(differs.any(axis=1))
        examples = [f"{catalog['slice_id'].iloc[row]}: {_names(differs[row])}" for row in rows[:EXAMPLES]]
        raise InvalidInputError(
            f"{origin} contradicts other labels of {format_count(len(rows), 'slice')}"
            f"{format_examples(examples, len(rows))}.",
            "Correct the labels: labels of slices, series and studies must agree.",
        )
    return np.where(np.isnan(before), found, before)


def _merge_groups(parts: list[pd.DataFrame], origin: str) -> pd.DataFrame:
    """Return the groups of all tables, one row each; raise `InvalidInputError` if their labels disagree."""
    table = pd.concat(parts, ignore_index=True)
    keys = ["study", "series"]
    per_group = table.groupby(keys, sort=True)[list(LABELS)]
    low, high = per_group.min(), per_group.max()
    differs = ((low != high) & low.notna()).any(axis=1)
    if differs.any():
        raise InvalidInputError(
            f"{origin} contradicts other labels of {format_count(int(differs.sum()), 'study', 'studies')}.",
            "Correct the labels: all labels of a study must agree.",
        )
    return high.reset_index()


def _check_positive_groups(slices: pd.DataFrame, groups: pd.DataFrame, origin: str) -> None:
    """Raise `InvalidInputError` if all slices of a positive group are known to be negative."""
    wrong = []
    for series, table in groups.groupby(groups["series"] != ""):
        keys = ["study", "series"] if series else ["study"]
        labels = slices[[*keys, *LABELS]]
        # An unknown label counts as positive: only groups whose slices are all known to be negative contradict.
        largest = labels.fillna(dict.fromkeys(LABELS, 1.0)).groupby(keys)[list(LABELS)].max()
        found = table.set_index(keys)[list(LABELS)].reindex(largest.index)
        wrong += [_names(row) for row in ((found > 0.5) & (largest == 0)).to_numpy() if row.any()]
    if wrong:
        raise InvalidInputError(
            f"{origin}: {format_count(len(wrong), 'study or series', 'studies or series')} with a positive label whose "
            f"slices are all labelled negative{format_examples(wrong[:EXAMPLES], len(wrong))}.",
            "Correct the labels: labels of slices, series and studies must agree.",
        )


def _names(which: npt.NDArray[np.bool_]) -> str:
    return ", ".join(name for name, chosen in zip(LABELS, which, strict=True) if chosen)
