"""Labels of studies and series in a version of a dataset: the file, and the columns that they add to its slices.

A label 0 of a group is the label 0 of each of its slices and is in the catalog. A label 1 says that some slice is
positive, not which: the slices remain unknown, and the group's label is in `study-labels.parquet`.
"""

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.labels import LABEL_GROUP, LABELS, STUDY_LABELS, UNSCORED

Floating = TypeVar("Floating", np.float32, np.float64)

STUDY_LABELS_FILE: Final = "study-labels.parquet"
"""One row per labelled group: `study`, `series` (empty for all of the study's series) and the six labels."""


def with_study_labels(catalog: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Return `catalog` with the columns `STUDY_LABELS` and `LABEL_GROUP`: the labels of the `groups` of its rows."""
    by_study, by_series = (groups[(groups["series"] == "") == whole] for whole in (True, False))
    row = pd.Index(by_study["study"]).get_indexer(pd.Index(catalog["study"]))
    of_series = pd.MultiIndex.from_frame(by_series[["study", "series"]]).get_indexer(
        pd.MultiIndex.from_frame(catalog[["study", "series"]])
    )
    values = np.full((len(catalog), len(LABELS)), np.nan, np.float32)
    names = np.full(len(catalog), "", object)
    for rows, table in ((row, by_study), (of_series, by_series)):
        known = rows >= 0
        values[known] = table[list(LABELS)].to_numpy(np.float32)[rows[known]]
        names[known] = (table["study"] + np.where(table["series"] == "", "", " ") + table["series"]).to_numpy(object)[
            rows[known]
        ]
    columns = {name: values[:, k] for k, name in enumerate(STUDY_LABELS)}
    return catalog.assign(**columns, **{LABEL_GROUP: names})


def has_study_labels(slices: pd.DataFrame) -> bool:
    """Return whether `slices` are of a dataset with labels of studies or series."""
    return LABEL_GROUP in slices


def study_labels_of(slices: pd.DataFrame) -> npt.NDArray[np.float64] | None:
    """Return the label of the group of each slice, (N, 6), NaN where unknown; None for a dataset without groups."""
    return slices[list(STUDY_LABELS)].to_numpy(np.float64) if has_study_labels(slices) else None


def group_codes(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the number of the labelled group of each slice, `(N,)`; -1 without one."""
    names = slices[LABEL_GROUP].to_numpy(object)
    codes = pd.factorize(names)[0].astype(np.int64)
    return np.where(names == "", -1, codes)


def informative(slices: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which slices a training can learn from, `(N,)`: those with a known label, or of a labelled group."""
    known = slices[list(LABELS)].notna().to_numpy().any(axis=1)
    of_group = study_labels_of(slices)
    return np.asarray(known if of_group is None else known | ~np.isnan(of_group).all(axis=1))


def without_unscored(labels: npt.NDArray[Floating], slices: pd.DataFrame) -> npt.NDArray[Floating]:
    """Return `labels` (N, 6) of `slices`, NaN where scores leave them out."""
    if UNSCORED not in slices:
        return labels
    codes, texts = pd.factorize(slices[UNSCORED])
    left_out = np.array([[name in str(text).split() for name in LABELS] for text in texts], bool)
    found = labels.copy()
    found[left_out[codes]] = np.nan
    return found


def slice_truth(slices: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the labels (N, 6) by which `slices` are scored, NaN where unknown.

    A label that the study or series has is not one of its slices: negative slices of negative studies without the
    positive ones of positive studies would be no fair sample.
    """
    labels = without_unscored(slices[list(LABELS)].to_numpy(np.float64), slices)
    of_group = study_labels_of(slices)
    return labels if of_group is None else np.where(np.isnan(of_group), labels, np.nan)


def study_truth(slices: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the labels (N, 6) whose maximum over a study is the study's label, NaN where unknown."""
    return without_unscored(possible_labels(slices).astype(np.float64), slices)


def possible_labels(slices: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return the labels (N, 6) with those of the group where a slice's label is unknown: what it may be.

    For stratification, where a slice of a positive study counts as positive.
    """
    labels = slices[list(LABELS)].to_numpy(np.float32)
    of_group = study_labels_of(slices)
    return labels if of_group is None else np.where(np.isnan(labels), of_group, labels).astype(np.float32)
