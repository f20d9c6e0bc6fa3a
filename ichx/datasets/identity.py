"""Patient, study and series of each slice, from ids that files may lack or share. The catalog is built in `catalog`.

- A series is of one study: one SeriesInstanceUID in several studies names several series.
- Slices without a SeriesInstanceUID are one series per study.
- Patients that share a study or series are one patient: the ids changed during the scan or in an anonymizer.
"""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

GroupBy = Literal["patient", "study"]
"""What a patient is: the slices with one PatientID; or one study, for files whose PatientIDs are placeholders."""

MANY_PATIENTS: Final = 5
"""A StudyInstanceUID of more patients than this is no study, but a constant of an anonymizer."""

MANY_STUDIES: Final = 2
"""A SeriesInstanceUID in more studies than this does not join their patients: it is a constant of an anonymizer."""


def identify(scan: pd.DataFrame, group_by: GroupBy = "patient") -> tuple[pd.DataFrame, dict[str, int]]:
    """Return `patient`, `study`, `series` and `patient_id` of each row of `scan`, and counts of what is unusual.

    `patient_id` is the patient before joining, empty unless the patient was joined with others. Counts:

    - `shared_studies`, `shared_series`: StudyInstanceUIDs of too many patients, SeriesInstanceUIDs of several studies
    - `joined_patients`, `joined_groups`: patients that share a study or series, and how many patients they became

    Args:
        scan: `slice_id`, `patient_id`, `study_id` and `series_id`, empty if missing.
        group_by: `study` ignores the PatientIDs.
    """
    slice_id, patient_id, study_id, series_id = (
        scan[name].astype(object) for name in ("slice_id", "patient_id", "study_id", "series_id")
    )
    named, in_study, in_series = (ids != "" for ids in (patient_id, study_id, series_id))
    alone = ("patient " + patient_id).where(named, "slice " + slice_id)
    series = series_id.where(in_series, ("study " + study_id).where(in_study, alone))
    study = study_id.where(in_study, "series " + series)
    constant = (named & in_study) & _count_per(study, patient_id, named, MANY_PATIENTS)
    study = study.where(~constant, "patient " + patient_id + " study " + study)
    shared = in_series & _count_per(series, study, in_series, 1)
    joining = series.where(in_series & ~_count_per(series, study, in_series, MANY_STUDIES), "")
    series = series.where(~shared, "study " + study + " series " + series)
    patient = patient_id.where(named, "study " + study) if group_by == "patient" else "study " + study
    joined = _join(patient, study, joining, slice_id, named)
    changed = joined.notna()
    ids = pd.DataFrame({"patient": joined.where(changed, patient), "study": study, "series": series})
    ids["patient_id"] = patient.where(changed, "")
    return ids, {
        "shared_studies": int(study_id[constant].nunique()),
        "shared_series": int(series_id[shared].nunique()),
        "joined_patients": int(patient[changed].nunique()),
        "joined_groups": int(joined[changed].nunique()),
    }


def of_known_patients(slices: pd.DataFrame, known: pd.DataFrame, *, by_study: bool = False) -> npt.NDArray[np.bool_]:
    """Return which `slices` are of patients in `known`, `(N,)`: the same before or after joining.

    Args:
        slices: A catalog.
        known: Another one with ids in the same form.
        by_study: Compare studies, too: in one of the catalogs, each study is a patient.
    """
    names = set(known["patient"]) | (set(known["patient_id"]) - {""})
    found = slices["patient"].isin(names) | slices["patient_id"].isin(names)
    if by_study:
        found |= slices["study"].isin(known["study"])
    return slices["patient"].isin(slices["patient"][found]).to_numpy(bool)


def _count_per(keys: pd.Series, values: pd.Series, among: pd.Series, limit: int) -> pd.Series:
    """Return whether the key of each row has more than `limit` distinct values in the rows `among`."""
    pairs = pd.DataFrame({"key": keys[among], "value": values[among]}).drop_duplicates()
    sizes = pairs["key"].value_counts()
    return keys.isin(sizes.index[sizes > limit])


def _join(patient: pd.Series, study: pd.Series, series: pd.Series, slice_id: pd.Series, named: pd.Series) -> pd.Series:
    """Return the joint patient of each row whose patient shares a study or a named series with others, else NaN.

    It is the patient of the first slice by id, one with a PatientID if there is any.
    """
    joined = pd.Series(np.nan, index=patient.index, dtype=object)
    codes, names = pd.factorize(patient)
    links = []
    for keys in (study, series):
        pairs = pd.DataFrame({"key": keys, "patient": codes})[keys != ""].drop_duplicates()
        links.append(pairs[pairs["key"].duplicated(keep=False)])
    edges: list[npt.NDArray[np.int64]] = [
        np.stack([pairs["patient"], pairs.groupby("key")["patient"].transform("first")]) for pairs in links
    ]
    first, second = np.concatenate(edges, axis=1)
    if not len(first):
        return joined
    size = len(names)
    _, group = connected_components(coo_array((np.ones(len(first), bool), (first, second)), (size, size)))
    several = np.bincount(group)[group] > 1
    rows = np.flatnonzero(several[codes])
    order = np.lexsort([slice_id.iloc[rows].to_numpy(str), ~named.iloc[rows].to_numpy(bool)])
    members = pd.DataFrame({"group": group[codes[rows[order]]], "patient": codes[rows[order]]})
    chosen = members.drop_duplicates("group").set_index("group")["patient"]
    joined.iloc[rows] = np.asarray(names, object)[chosen.loc[group[codes[rows]]].to_numpy()]
    return joined
