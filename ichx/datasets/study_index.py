"""An index of a version's slices by study: Arrow files that a viewer maps into memory instead of reading a catalog.

The catalog of 750,000 slices takes more than a gigabyte as a DataFrame. `write_index` needs that once, in a process of
its own; `StudyIndex` then reads one study at a time. Neither needs a file of a slice.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ichx.ct.acquisition import ACQUISITION_FIELDS
from ichx.datasets.arrow_columns import column_values
from ichx.labels import LABELS, STUDY_LABELS

if TYPE_CHECKING:
    import pandas as pd

SLICES_FILE, STUDIES_FILE, EXCLUDED_FILE = "slices.arrow", "studies.arrow", "excluded.arrow"
BY_ID_FILE: Final = "by-id.npy"
"""Rows of the slices in the order of their ids."""
FACTS_FILE: Final = "index.json"
"""Written last."""

FLAGS: Final = ("gap", "overlap", "same_place", "off_normal", "not_axial", "by_number")
ASSUMED: Final = ("window_missing", "intercept_repaired")
"""Assumptions that have a column in a catalog."""
GEOMETRY: Final = ("rows", "columns", "spacing_row", "spacing_column", "pos_z", "position", "step")
FILE: Final = ("file", "bytes", "mtime_ns", "frame")
CACHED: Final = ("row", "rows", "columns", "spacing_row", "spacing_column")
"""What the pixels of a slice in a cache depend on."""
UNKNOWN_COUNT, SOME_POSITIVE = -1, -2
"""Instead of the count of positive slices of a study: it is unknown; it is unknown, but the study is positive."""
PSEUDO_RANGE: Final = tuple(f"{end}_{label}" for end in ("pseudo_low", "pseudo_high") for label in LABELS)
"""Columns of the slices of a version with pseudo-labels: the smallest and largest of the folds, NaN without one."""
NO_FOLD, SEVERAL_FOLDS = -3, -2
"""Next to `ichx.datasets.fold_numbers.TRAIN_ONLY`, -1."""


@dataclass(frozen=True)
class IndexInput:
    """What an index is built from."""

    slices: "pd.DataFrame"
    """The usable slices of a catalog, numbered from 0: the rows of a cache."""
    excluded: "pd.DataFrame"
    """The rows of the catalog with a defect."""
    digest: str
    """`slices_digest` of the slices, which identifies their caches."""
    folds: npt.NDArray[np.int16] | None = None
    """Fold of each slice, `(N,)`."""
    masked: npt.NDArray[np.bool_] | None = None
    """Whether each slice has a mask that is not empty, `(N,)`."""
    pseudo: npt.NDArray[np.float32] | None = None
    """The smallest and the largest pseudo-label of each slice over the folds, `(2, N, 6)`."""
    pseudo_masked: npt.NDArray[np.bool_] | None = None
    """Whether each slice has a pseudo-mask, which may be empty, `(N,)`."""


def write_index(folder: Path, given: IndexInput) -> None:
    """Write the index into the existing `folder`. Raises `OSError`."""
    import pandas as pd

    slices = given.slices
    owners = [pd.factorize(slices[name])[0] for name in ("series", "study")]
    order = np.lexsort([slices["order"].to_numpy(), *owners])
    n = len(slices)
    columns = [
        "slice_id",
        "series",
        "patient",
        "order",
        "run",
        *GEOMETRY,
        "window_centre",
        "window_width",
        *FLAGS,
        *ASSUMED,
    ]
    frame = slices[[*columns, "assumptions", *LABELS, *FILE]].iloc[order].reset_index(drop=True)
    of_parts = [name for name in ("part", "source") if name in slices]  # a mixture has a source per slice
    of_studies = [name for name in STUDY_LABELS if name in slices]
    frame = frame.assign(**{name: slices[name].to_numpy(np.float32)[order] for name in of_studies})
    if given.pseudo is not None:
        frame = frame.assign(
            **dict(zip(PSEUDO_RANGE, np.concatenate(given.pseudo.transpose(0, 2, 1))[:, order], strict=True))
        )
    for name in (*ACQUISITION_FIELDS, *of_parts):  # few values, which one dictionary per column has
        values = slices[name].iloc[order].reset_index(drop=True)
        frame[name] = values if values.dtype.kind == "f" else values.astype("category")
    study = owners[1][order].astype(np.int32)
    frame["study"] = study
    frame["row"] = order.astype(np.int32)
    frame["fold"] = (np.full(n, NO_FOLD, np.int16) if given.folds is None else given.folds)[order]
    frame["mask"] = (np.zeros(n, bool) if given.masked is None else given.masked)[order]
    frame["pseudo_mask"] = (np.zeros(n, bool) if given.pseudo_masked is None else given.pseudo_masked)[order]
    _write(frame, folder / SLICES_FILE)
    names = list(pd.unique(slices["study"]))  # by code
    _write(_studies(frame, slices.iloc[order], names), folder / STUDIES_FILE)
    _write(sort_excluded(given.excluded), folder / EXCLUDED_FILE)
    np.save(folder / BY_ID_FILE, np.argsort(frame["slice_id"].to_numpy(object), kind="stable").astype(np.int32))
    (folder / FACTS_FILE).write_text(json.dumps({"digest": given.digest, "slices": n}), encoding="utf-8")


def sort_excluded(excluded: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of a catalog with a defect as an index has them, numbered from 0."""
    columns = ["study", "slice_id", "defect", "detail", *FILE]
    return excluded[columns].sort_values("study", kind="stable", ignore_index=True)


class StudyIndex:
    """A written index. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Map the files in `folder`. Raises `OSError`, or `ValueError` if they are damaged."""
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        self.folder = folder
        self.digest: str = facts["digest"]
        self.n: int = facts["slices"]
        """Number of slices."""
        self._slices = _map(folder / SLICES_FILE)
        self.studies = _map(folder / STUDIES_FILE)
        """One row per study: `study`, `patient`, `first`, `slices`, `series`, a count of positive slices per label
        (`UNKNOWN_COUNT` or `SOME_POSITIVE` if none is known to be positive and some are unknown), `fold`, `flags`,
        `scanner`, `masks`."""
        self._ids = self._slices["slice_id"]
        self._cached = self._slices.select(list(CACHED))
        self._excluded = _map(folder / EXCLUDED_FILE)
        self._by_id = np.load(folder / BY_ID_FILE, mmap_mode="r")
        self._place = {study: place for place, study in enumerate(self.studies["study"].to_pylist())}

    def study(self, study: str) -> dict[str, Any] | None:
        """Return the row of `studies`, or None if there is no such study."""
        place = self._place.get(study)
        return None if place is None else dict(self.studies.slice(place, 1).to_pylist()[0])

    def slices(self, study: str) -> list[dict[str, Any]]:
        """Return the slices of a study by series and order."""
        found = self.study(study)
        return [] if found is None else self._slices.slice(found["first"], found["slices"]).to_pylist()

    def frame(self, study: str | None) -> "pd.DataFrame":
        """Return the slices of a study (None: of all) as rows of a catalog, numbered from 0.

        They have their `row` in a cache.
        """
        found = None if study is None else self.study(study)
        part = self._slices if found is None else self._slices.slice(found["first"], found["slices"])
        frame: pd.DataFrame = part.to_pandas()
        return frame.assign(study=self.studies["study"].to_pandas().to_numpy(object)[frame["study"]])

    def slice(self, slice_id: str) -> dict[str, Any] | None:
        """Return the slice with this id, or None; its `study` is the id of the study."""
        place = self.place(slice_id)
        return None if place is None else self.at(place)

    def at(self, place: int) -> dict[str, Any]:
        """Return the slice at a place of the index, from 0; its `study` is the id of the study."""
        found = self._slices.slice(place, 1).to_pylist()[0]
        return {**found, "study": self.studies["study"][found["study"]].as_py()}

    def cached_slices(self, slice_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return `CACHED` of slices, None for those that are not there.

        It is fast for slices that are next to each other in a series.
        """
        near: dict[str, dict[str, Any]] = {}
        reach = len(slice_ids) - 1
        for slice_id in slice_ids:
            if slice_id not in near and (place := self.place(slice_id)) is not None:
                first = max(0, place - reach)
                ids, rows = (one.slice(first, place + reach + 1 - first) for one in (self._ids, self._cached))
                near.update(zip(ids.to_pylist(), rows.to_pylist(), strict=True))
        return [near.get(slice_id) for slice_id in slice_ids]

    def place(self, slice_id: str) -> int | None:
        """Return the place of a slice in the index, which is sorted by study; None if it is not there."""
        ids, low, high = self._ids, 0, self.n
        while low < high:
            middle = (low + high) // 2
            if ids[int(self._by_id[middle])].as_py() < slice_id:
                low = middle + 1
            else:
                high = middle
        if low == self.n:
            return None
        place = int(self._by_id[low])
        return place if ids[place].as_py() == slice_id else None

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of all slices by place, `(N,)`; `study` is the number of the study."""
        return column_values(self._slices[name])

    def excluded(self, study: str) -> list[dict[str, Any]]:
        """Return `slice_id`, `defect` and `detail` of the excluded files of a study, as far as that is known."""
        studies = self._excluded["study"]
        first, end = (
            bisect(range(len(studies)), study, key=lambda place: str(studies[place]))
            for bisect in (bisect_left, bisect_right)
        )
        return [
            dict(row)
            for row in self._excluded.slice(first, end - first).select(["slice_id", "defect", "detail"]).to_pylist()
        ]

    def excluded_at(self, place: int) -> dict[str, Any] | None:
        """Return the row of `sort_excluded` with this number, or None if there is none."""
        return dict(self._excluded.slice(place, 1).to_pylist()[0]) if 0 <= place < len(self._excluded) else None

    def study_labels(self) -> npt.NDArray[Any] | None:
        """Return the labels of the studies or series of all slices by place, `(N, 6)`; None without any."""
        if STUDY_LABELS[0] not in self._slices.column_names:
            return None
        return np.column_stack([self.column(name) for name in STUDY_LABELS])

    def masked_rows(self) -> npt.NDArray[np.int64]:
        """Return the cache rows of the slices with masks, ascending."""
        rows = self.column("row")[self.column("mask")]
        return np.sort(rows).astype(np.int64)

    @property
    def excluded_count(self) -> int:
        """Number of excluded files or frames."""
        return len(self._excluded)


def _studies(frame: "pd.DataFrame", slices: "pd.DataFrame", names: Sequence[Any]) -> "pd.DataFrame":
    """Return one row per study of `frame`, whose `study` is the number of the study; `slices` are in its order."""
    import pandas as pd

    code = frame["study"].to_numpy()
    first = np.searchsorted(code, np.arange(len(names)))
    grouped = frame.groupby("study", sort=True)
    labels = frame[list(LABELS)]
    positive = (labels > 0.5).groupby(code).sum()
    unknown = labels.isna().groupby(code).any()
    table = pd.DataFrame(
        {
            "study": names,
            "patient": frame["patient"].to_numpy(object)[first],
            "first": first.astype(np.int64),
            "slices": np.diff([*first, len(frame)]).astype(np.int64),
            "series": grouped["series"].nunique().to_numpy(np.int64),
        }
    )
    for label in LABELS:
        count = positive[label].to_numpy(np.int64)
        missing = np.full(len(count), UNKNOWN_COUNT)
        if (name := f"study_{label}") in frame:
            missing[(frame[name] > 0.5).groupby(code).any().to_numpy()] = SOME_POSITIVE
        table[label] = np.where(unknown[label].to_numpy() & (count == 0), missing, count)
    low, high = grouped["fold"].min().to_numpy(), grouped["fold"].max().to_numpy()
    table["fold"] = np.where(low == high, low, SEVERAL_FOLDS).astype(np.int64)
    flagged = frame[[*FLAGS, *ASSUMED]].groupby(code).any()
    table["flags"] = [
        " ".join(name for name, on in zip((*FLAGS, *ASSUMED), row, strict=True) if on) for row in flagged.to_numpy()
    ]
    table["scanner"] = _scanners(slices.iloc[first]).to_numpy(object)
    table["masks"] = grouped["mask"].sum().to_numpy(np.int64)
    return table


def _scanners(slices: "pd.DataFrame") -> "pd.Series[str]":
    """Return manufacturer and model of each slice, or its pixel format if the header names none."""
    from ichx.datasets.subgroups import FIELDS, UNKNOWN  # needs pandas

    named = FIELDS["scanner"](slices)
    return named.where(named != UNKNOWN, FIELDS["pixels"](slices))


def _write(frame: "pd.DataFrame", path: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _map(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
