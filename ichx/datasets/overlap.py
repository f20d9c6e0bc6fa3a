"""Patients of several datasets of a workspace: who is the same, by ids that stay the same between publications.

BHSD, MBH-Seg and HemSeg-200 are studies of RSNA 2019 under its ids; Seg-CQ500 and BHX are studies of CQ500. All
datasets of a workspace hash ids with the same key, so that equal hashes are equal ids. A version has its hashes in the
file `identity.parquet`; those of a version of an earlier ichx are derived from its catalog.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import hash_ids, write_parquet
from ichx.datasets.dataset import CATALOG_FILE, load_catalog, read_version_table
from ichx.datasets.identity import MANY_PATIENTS
from ichx.errors import ChangedDataError, IchxError
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace

IDENTITY_FILE: Final = "identity.parquet"
COLUMNS: Final = ("patient", "kind", "key")
"""`patient` as in the catalog, the kind of id (a key of `KINDS`), and its keyed hash."""

KINDS: Final[Mapping[str, str]] = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "cq500": "CQ500 number",
    "slice": "SOPInstanceUID",
}
"""Kinds of ids by which patients are recognized, and their names in messages."""

_CQ500: Final = re.compile(r"CQ500[-_ ]?CT[-_ ]?(\d{1,4})(?!\d)", re.IGNORECASE)
_RSNA: Final = re.compile(r"(ID_[0-9a-f]{8})_(ID_[0-9a-f]{10})(?![0-9a-f])")
"""PatientID and StudyInstanceUID of RSNA 2019 in the name of a file."""
_PUBLIC: Final = re.compile(r"ID_[0-9a-f]{8,}|\d+(?:\.\d+){4,}|CQ500[-_ ]?CT[-_ ]?\d+", re.IGNORECASE)
"""Ids of volumes that no other dataset has by chance, unlike `049`."""
_VOLUME: Final = re.compile(r"\.nii(?:\.gz)?(?:#\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class PatientOverlap:
    """How many patients of a dataset are also in another one."""

    dataset: str
    """The other dataset."""
    version: int
    patients: int
    of: int
    """Patients of the dataset that was checked."""
    by: Mapping[str, int]
    """Number of patients by the kind of id in which they agree, a key of `KINDS`."""

    def __str__(self) -> str:
        kinds = ", ".join(KINDS[kind] for kind in self.by)
        verb = "is" if self.patients == 1 else "are"
        return f"{self.patients:,} of {format_count(self.of, 'patient')} {verb} also in {self.dataset} (by {kinds})."


def identity_keys(scan: pd.DataFrame, catalog: pd.DataFrame, key: bytes, *, by_study: bool = False) -> pd.DataFrame:
    """Return the hashes of ids of the patients of a new version, with the columns `COLUMNS`.

    Args:
        scan: What was read from the headers: ids as they are.
        catalog: The catalog of the same rows.
        key: The workspace's key.
        by_study: PatientIDs are placeholders, by which nobody is recognized.
    """
    good = catalog["defect"].isna().to_numpy()
    ids = pd.DataFrame(
        {
            "patient": catalog["patient"].to_numpy(object)[good],
            "patient_id": scan["patient_id"].to_numpy(object)[good],
            "study_id": scan["study_id"].to_numpy(object)[good],
            "path": _paths(catalog["file"][good]),
        }
    ).drop_duplicates()
    found = [_kind(ids, "patient", ids["patient_id"].where(_reliable(ids, "patient_id"), ""))] if not by_study else []
    found.append(_kind(ids, "study", ids["study_id"].where(_reliable(ids, "study_id"), "")))
    found += _published(ids, ids["patient_id"] + " " + ids["study_id"] + " " + ids["path"])
    return _hashed(pd.concat(found), key)


def load_identity(workspace: "Workspace", version: "DatasetVersion") -> pd.DataFrame:
    """Return the hashes of ids of a version's patients; from its catalog if it has no file of them.

    Raises `ChangedDataError` or `CorruptFileError` if both cannot be read.
    """
    try:
        return read_version_table(workspace, version, IDENTITY_FILE, list(COLUMNS))
    except ChangedDataError:  # of an earlier ichx, or made of other versions
        catalog = load_catalog(workspace, version)
    return _derived(catalog, version, workspace.privacy_key())


def _derived(catalog: pd.DataFrame, version: "DatasetVersion", key: bytes) -> pd.DataFrame:
    """Return the hashes of ids in a catalog, in which ids are hashed already unless they are kept."""
    ids = catalog.loc[catalog["defect"].isna(), ["patient", "patient_id", "study", "file"]]
    ids = ids.assign(path=_paths(ids["file"])).drop(columns="file").drop_duplicates()
    own = ids["patient_id"].where(ids["patient_id"] != "", ids["patient"])
    by_study = version.summary.get("group_by") == "study"
    volume = ids["path"].str.contains(_VOLUME).to_numpy(bool)
    stored = [_kind(ids, "study", ids["study"].where(~volume, ""))]
    if not by_study:
        stored.append(_kind(ids, "patient", own.where(~volume, "")))
    given = pd.concat(stored)
    given = _hashed(given, key) if version.summary.get("keep_ids") else _distinct(given)
    names = ids["path"] if not version.summary.get("keep_ids") else ids["path"] + " " + own + " " + ids["study"]
    return pd.concat([given, _hashed(pd.concat(_published(ids, names)), key)], ignore_index=True)


def matching_patients(keys: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the `patient` and `kind` of the rows of `keys` that are also in `others`, each pair once."""
    known = pd.MultiIndex.from_frame(others[["kind", "key"]])
    rows = pd.MultiIndex.from_frame(keys[["kind", "key"]]).isin(known)
    return keys.loc[rows, ["patient", "kind"]].drop_duplicates()


def matching_slices(slices: pd.DataFrame, slice_ids: "pd.Series[str]") -> npt.NDArray[np.bool_]:
    """Return which rows of a catalog are among `slice_ids`, (N,); numbers of volumes with common names do not count."""
    known = set(slice_ids.to_numpy(object))  # `isin` of strings in Arrow is ten times slower
    same = np.array([name in known for name in slices["slice_id"].to_numpy(object)], bool)
    rows = np.flatnonzero(same)
    named, files = slices["slice_id"].iloc[rows], slices["file"].iloc[rows]
    common = named.str.contains("#", regex=False) & ~named.str.contains(_PUBLIC) & files.str.contains(_VOLUME)
    same[rows[common.to_numpy(bool)]] = False
    return same


def find_overlaps(
    project: "Project", skip: Collection[str | None], keys: pd.DataFrame, slices: pd.DataFrame
) -> tuple[list[PatientOverlap], list[str]]:
    """Return in which other datasets of the workspace the patients of a dataset are, and why some could not be read.

    Args:
        project: The project.
        skip: Names of datasets that are not compared, e.g. the one that is checked. Mixtures are not compared, either.
        keys: The dataset's `identity_keys`.
        slices: Usable rows of its catalog.
    """
    found, unread = [], []
    total = int(slices["patient"].nunique())
    for dataset in project.store.datasets():
        if dataset.name in skip:
            continue
        version = project.store.version(dataset.name)
        if version.part_names:
            continue  # its parts are datasets of the workspace
        try:
            others = load_identity(project.workspace, version)
            ids = read_version_table(project.workspace, version, CATALOG_FILE, ["slice_id", "defect"])
        except IchxError as error:
            unread.append(f"Patients were not compared with {dataset.name}: {error.problem}")
            continue
        same = matching_patients(keys, others)
        of_slices = slices["patient"][matching_slices(slices, ids["slice_id"][ids["defect"].isna()])].unique()
        by_slice = pd.DataFrame({"patient": of_slices, "kind": "slice"})
        pairs = pd.concat([same, by_slice], ignore_index=True)
        pairs = pairs[pairs["patient"].isin(slices["patient"])]
        if len(pairs):
            counts = pairs.groupby("kind")["patient"].nunique()
            by = {kind: int(counts[kind]) for kind in KINDS if kind in counts.index}
            found.append(PatientOverlap(dataset.name, version.number, int(pairs["patient"].nunique()), total, by))
    return found, unread


def _paths(files: "pd.Series[Any]") -> npt.NDArray[np.object_]:
    """Return the part of each file's name that may contain ids: its folders, and the name of a volume."""
    names = files.to_numpy(object)
    parts = [name if _is_named(name) else name.rpartition("/")[0] for name in names]
    return np.array(parts, object)


def _is_named(file: str) -> bool:
    """Whether the name of a file without its folders may be an id."""
    return ("_ID_" in file and _RSNA.search(file) is not None) or (
        ".nii" in file.lower() and _VOLUME.search(file) is not None
    )


def _reliable(ids: pd.DataFrame, column: str) -> "pd.Series[bool]":
    """Return whether an id is of a header, or of a volume under an id that no other dataset has by chance."""
    volume = ids["path"].str.contains(_VOLUME)
    return ~volume | ids[column].str.fullmatch(_PUBLIC)


def _kind(ids: pd.DataFrame, kind: str, texts: "pd.Series[Any]") -> pd.DataFrame:
    rows = (texts != "").to_numpy(bool)
    return pd.DataFrame({"patient": ids["patient"].to_numpy(object)[rows], "kind": kind, "key": texts[rows].to_numpy()})


def _published(ids: pd.DataFrame, texts: "pd.Series[Any]") -> list[pd.DataFrame]:
    """Return the ids of public datasets in `texts`."""
    numbers = texts.str.extract(_CQ500, expand=False)
    names = texts.str.extract(_RSNA)
    return [
        _kind(ids, "cq500", ("cq500:" + numbers.str.lstrip("0").replace("", "0")).fillna("")),
        _kind(ids, "patient", names[0].fillna("")),
        _kind(ids, "study", names[1].fillna("")),
    ]


def _hashed(pairs: pd.DataFrame, key: bytes) -> pd.DataFrame:
    return _distinct(pairs.assign(key=hash_ids(pairs["key"], key)))


def _distinct(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return `pairs` once each, without ids of so many patients that they are constants of an anonymizer."""
    pairs = pairs.drop_duplicates()
    many = pairs.groupby(["kind", "key"])["patient"].transform("size") > MANY_PATIENTS
    return pairs[~many].reset_index(drop=True)


def write_identity(keys: pd.DataFrame, folder: Path) -> None:
    """Write the hashes of ids into the `folder` of a version. Raises `StorageError`."""
    write_parquet(keys, folder / IDENTITY_FILE)
