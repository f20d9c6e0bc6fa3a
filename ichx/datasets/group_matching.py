"""Matching the ids of a label table with studies, series, patients, folders and files of a catalog.

Ids of slices are matched in `id_matching`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.id_matching import IdMatch
from ichx.datasets.ingest import file_stem
from ichx.datasets.label_table import LEVELS, IdKind, LabelTable, Level
from ichx.errors import InvalidInputError
from ichx.labels import LABELS
from ichx.text import EXAMPLES, format_count, format_examples

Rows = npt.NDArray[np.int64]

ReadAccession = Callable[[], "pd.Series[str]"]
"""Returns the AccessionNumber of each row of a scan."""

ID_COLUMNS: Final[dict[IdKind, str]] = {
    "SOPInstanceUID": "slice_id",
    "SeriesInstanceUID": "series_id",
    "StudyInstanceUID": "study_id",
    "PatientID": "patient_id",
}
"""Columns of a scan by kind of id."""


@dataclass(frozen=True)
class GroupMatch:
    """The ids of a label table and the rows of a catalog that match."""

    level: Level
    row_id: Rows
    """(N,) id of each row, -1 for none or an excluded file."""
    row_group: Rows
    """(N,) code of the slice, series, study or patient of each row, -1 without an id."""
    ids: IdMatch
    several: tuple[str, ...] = ()
    """Positive PatientIDs with several studies: the label does not say which study is positive."""

    def labels(self, catalog: pd.DataFrame, values: npt.NDArray[np.float32]) -> pd.DataFrame:
        """Return `study`, `series` and the six labels of each group, given the labels of the ids.

        `series` is empty unless the level is that of series. A positive label of a patient with several studies is
        unknown for each of them.
        """
        rows = np.flatnonzero(self.row_id >= 0)
        table = pd.DataFrame(values[self.row_id[rows]], columns=list(LABELS))
        table.insert(0, "study", catalog["study"].to_numpy(object)[rows])
        table.insert(1, "series", catalog["series"].to_numpy(object)[rows] if self.level == "series" else "")
        table = table.drop_duplicates(["study", "series"], ignore_index=True)
        if self.level == "patient":
            owner = pd.Series(self.row_id[rows]).groupby(catalog["study"].to_numpy(object)[rows], sort=False).first()
            shared = owner.duplicated(keep=False).to_numpy()
            labels = table[list(LABELS)].to_numpy(np.float32, copy=True)
            labels[shared[:, None] & (labels != 0)] = np.nan
            table[list(LABELS)] = labels
        return table


def match_groups(
    catalog: pd.DataFrame, scan: pd.DataFrame, table: LabelTable, accession: ReadAccession | None = None
) -> GroupMatch:
    """Match the ids of `table` with the rows of `catalog`.

    Args:
        catalog: The catalog; its ids of patients, studies and series may be hashes.
        scan: What it was built from; the same rows.
        table: Labels. Without a level, ids that match one slice each are of slices; ids of which several match series
            of one study are of series; others are of studies.
        accession: Returns the AccessionNumber of each row.

    Raises:
        InvalidInputError: No id matches, a row matches several ids, or an id matches several groups.
    """
    good = catalog["defect"].isna().to_numpy()
    if table.kind is None:
        raise ValueError("the kind of the ids is not known")
    row_id = _row_ids(scan, table, table.kind, good, accession)
    usable = good & (row_id >= 0)
    if not usable.any():
        raise _no_match(scan[good], table, accession)
    found = np.zeros(len(table.ids), bool)
    found[row_id[usable]] = True
    seen = np.zeros(len(table.ids), bool)
    seen[row_id[row_id >= 0]] = True
    absent = np.flatnonzero(~found & ~seen)
    matched = np.where(usable, row_id, -1)
    level = table.level or LEVELS[table.kind] or _level_of(catalog, matched)
    group = _groups(catalog, level, matched)
    _check_ids(table, level, matched, group)
    _check_agreement(table, level, matched, group)
    matched = _of_group(matched, group)
    ids = IdMatch(
        table.kind, matched, len(absent), tuple(map(str, table.ids[absent[:EXAMPLES]])), int((seen & ~found).sum())
    )
    return GroupMatch(
        level, matched, group, ids, _several_studies(catalog, table, matched) if level == "patient" else ()
    )


def find_kind(
    scan: pd.DataFrame, ids: npt.NDArray[np.object_], good: npt.NDArray[np.bool_], accession: ReadAccession | None
) -> IdKind:
    """Return the kind of which the most `ids` match files; SOPInstanceUID, whose error names examples, if none does."""
    best: IdKind = "SOPInstanceUID"
    most = 0
    for kind in sorted(LEVELS, key=lambda kind: kind == "AccessionNumber"):  # it has to be read from the files
        if kind == "AccessionNumber" and (accession is None or most):
            continue
        table = LabelTable(ids, np.zeros((len(ids), len(LABELS)), np.float32), None, kind)
        try:
            row_id = _row_ids(scan, table, kind, good, accession)
        except InvalidInputError:
            continue
        if (count := len(np.unique(row_id[good & (row_id >= 0)]))) > most:
            best, most = kind, count
    return best


def _row_ids(
    scan: pd.DataFrame,
    table: LabelTable,
    kind: IdKind,
    good: npt.NDArray[np.bool_],
    accession: ReadAccession | None,
) -> Rows:
    """Return the id of each row, -1 for none."""
    if kind in ("folder", "file"):
        return _match_paths(scan["file"], table, good)
    if kind == "AccessionNumber":
        if accession is None:
            raise ValueError("AccessionNumbers were not read")
        return _match_texts(accession(), table.ids, good)
    return _match_texts(scan[ID_COLUMNS[kind]], table.ids, good)


def _match_texts(known: "pd.Series[str]", ids: npt.NDArray[np.object_], good: npt.NDArray[np.bool_]) -> Rows:
    """Return the id of each row, in the form in which most ids match: spreadsheets change case and drop zeros."""
    best, most = np.full(len(known), -1, np.int64), 0
    for form in (str, _stripped, _unpadded):
        keys: pd.Index[str] = pd.Index([form(text) for text in ids])
        if not keys.is_unique:
            continue
        codes, names = pd.factorize(known)
        row = keys.get_indexer(pd.Index([form(text) if text else "\0" for text in names]))[codes]
        count = len(np.unique(row[good & (row >= 0)]))
        if count > most:
            best, most = row.astype(np.int64), count
    return best


def _stripped(text: str) -> str:
    return text.strip().casefold()


def _unpadded(text: str) -> str:
    return _stripped(text).lstrip("0")


def _match_paths(files: "pd.Series[str]", table: LabelTable, good: npt.NDArray[np.bool_]) -> Rows:
    """Return the id of each row: a folder or a file by its path from the source, or else by its name."""
    candidates = _folder_names if table.kind == "folder" else _file_names
    codes, names = pd.factorize(files)
    best, most = np.full(len(files), -1, np.int64), 0
    forms: tuple[Callable[[str], str], ...] = (_plain_path, lambda text: _plain_path(text).casefold())
    for form in forms:
        number = {form(text): i for i, text in enumerate(table.ids)}
        if len(number) < len(table.ids):
            continue
        row = np.full(len(names), -1, np.int64)
        for i, name in enumerate(names):
            matching = list(dict.fromkeys(number[key] for key in map(form, candidates(name)) if key in number))
            if len(matching) > 1:
                both = " and ".join(str(table.ids[k]) for k in matching[:2])
                raise InvalidInputError(
                    f"{table.origin}: the file {name} matches several ids: {both}.",
                    f"Use ids of {table.kind}s of one depth, or paths from the source.",
                )
            if matching:
                row[i] = matching[0]
        count = len(np.unique(row[codes][good & (row[codes] >= 0)]))
        if count > most:
            best, most = row[codes], count
    return best


def _plain_path(text: str) -> str:
    return text.strip().replace("\\", "/").strip("/").removeprefix("./")


def _folder_names(file: str) -> Iterator[str]:
    """Yield the paths and names of the folders of `file`."""
    parts = file.split("/")[:-1]
    for depth in range(len(parts), 0, -1):
        yield "/".join(parts[:depth])
        yield parts[depth - 1]


def _file_names(file: str) -> Iterator[str]:
    """Yield the path and the name of `file`, with and without extensions."""
    name = file.rpartition("/")[2]
    stem = name.removesuffix(".gz").removesuffix(".nii") if name.endswith((".nii", ".nii.gz")) else file_stem(name)
    yield from (file, name, stem, file.removesuffix(name) + stem)


def _level_of(catalog: pd.DataFrame, row_id: Rows) -> Level:
    """Return what the ids of folders or files describe."""
    rows = np.flatnonzero(row_id >= 0)
    if np.bincount(row_id[rows]).max() == 1:
        return "slice"
    of = pd.DataFrame({"id": row_id[rows], "study": catalog["study"].to_numpy(object)[rows]})
    of["series"] = of["study"] + " " + catalog["series"].to_numpy(object)[rows]
    one_series = (of.groupby("id")["series"].nunique() == 1).all()
    all_series = catalog.loc[catalog["defect"].isna()].groupby("study")["series"].nunique()
    several = all_series.reindex(of["study"].unique()).gt(1).any()
    return "series" if one_series and several else "study"


def _groups(catalog: pd.DataFrame, level: Level, row_id: Rows) -> Rows:
    """Return the code of the group of each row with an id, -1 elsewhere; all rows of a group get it."""
    if level == "slice":
        return np.where(row_id >= 0, np.arange(len(catalog)), -1)
    keys = catalog["study"] + " " + catalog["series"] if level == "series" else catalog[level]
    codes = pd.factorize(keys)[0].astype(np.int64)
    return np.where(catalog["defect"].isna().to_numpy(), codes, -1)


def _of_group(row_id: Rows, group: Rows) -> Rows:
    """Return the id of each row, -1 for none; rows without an id get that of their group."""
    with_id = np.flatnonzero((row_id >= 0) & (group >= 0))
    of_group = np.full(int(group.max(initial=-1)) + 1, -1, np.int64)
    of_group[group[with_id[::-1]]] = row_id[with_id[::-1]]
    return np.where(row_id >= 0, row_id, np.where(group >= 0, of_group[group], -1))


def _several_studies(catalog: pd.DataFrame, table: LabelTable, row_id: Rows) -> tuple[str, ...]:
    """Return the ids of positive patients with several studies."""
    rows = np.flatnonzero(row_id >= 0)
    studies = pd.Series(catalog["study"].to_numpy(object)[rows]).groupby(row_id[rows]).nunique()
    ids = studies.index[studies > 1].to_numpy(np.int64)
    return tuple(str(table.ids[i]) for i in ids[(table.values[ids] > 0).any(axis=1)])


def _check_ids(table: LabelTable, level: Level, row_id: Rows, group: Rows) -> None:
    """Raise `InvalidInputError` if an id matches several groups."""
    pairs = pd.DataFrame({"id": row_id, "group": group})[row_id >= 0].drop_duplicates()
    twice = pairs["id"].value_counts()
    twice = twice[twice > 1]
    if twice.empty:
        return
    plural = {"slice": "slices", "series": "series", "study": "studies", "patient": "patients"}[level]
    first = twice.sort_index()[:EXAMPLES]
    examples = [f"{table.ids[i]} ({n} {plural})" for i, n in zip(first.index.to_numpy(np.int64), first, strict=True)]
    raise InvalidInputError(
        f"{table.origin}: {format_count(len(twice), 'id')} of kind {table.kind} with several {plural}"
        f"{format_examples(examples, len(twice))}.",
        "Use ids that name one of them each, or check whether the files have these ids.",
    )


def _check_agreement(table: LabelTable, level: Level, row_id: Rows, group: Rows) -> None:
    """Raise `InvalidInputError` if several ids of a group have different labels."""
    pairs = pd.DataFrame({"id": row_id, "group": group})[(row_id >= 0) & (group >= 0)].drop_duplicates()
    shared = pairs[pairs["group"].duplicated(keep=False)]
    wrong = []
    for _, ids in shared.groupby("group")["id"]:
        rows = table.values[ids.to_numpy()]
        if not (np.fmax.reduce(rows) == np.fmin.reduce(rows))[~np.isnan(rows).all(axis=0)].all():
            wrong.append(" and ".join(str(table.ids[i]) for i in ids[:2]))
    if wrong:
        raise InvalidInputError(
            f"{table.origin}: {format_count(len(wrong), level, 'studies' if level == 'study' else '')} with several "
            f"ids whose labels disagree{format_examples(wrong[:EXAMPLES], len(wrong))}.",
            "Correct the labels, or give ids of a finer level, e.g. SeriesInstanceUID.",
        )


def _no_match(slices: pd.DataFrame, table: LabelTable, accession: ReadAccession | None) -> InvalidInputError:
    first = slices.iloc[0]
    if table.kind in ("folder", "file"):
        here = f"the first file is {first['file']!r}"
    else:
        if table.kind == "AccessionNumber" and accession is not None:
            known = accession().loc[slices.index]
        else:
            known = slices[ID_COLUMNS[table.kind or "SOPInstanceUID"]]
        present = known[known != ""]
        here = f"the first slice has {present.iloc[0]!r}" if len(present) else f"no slice has a {table.kind}"
    return InvalidInputError(
        f"None of {format_count(len(table.ids), 'id')} in {table.origin} is the {table.kind} of a slice. An id is "
        f"{str(table.ids[0])!r}; {here}.",
        "Name the column of the ids with --id-column, and what they are with --id-kind.",
    )
