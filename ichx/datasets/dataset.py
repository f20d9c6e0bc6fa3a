"""Versions of datasets in the workspace, and reading them. Versions are added in `add`; pixels are in `ichx.cache`.

A version is immutable: a folder `datasets/NAME/vN/` with the catalog, folds, masks and sample submission, and a row in
the store.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import read_catalog, usable_slices
from ichx.datasets.decode_findings import describe_findings, read_findings
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.mask_png import MASKS_FILE
from ichx.datasets.masks import masks_by_row
from ichx.datasets.mixture import list_parts, with_parts
from ichx.datasets.series import describe_geometry, describe_series
from ichx.datasets.study_labels import STUDY_LABELS_FILE, with_study_labels
from ichx.datasets.summary import describe_assumptions, describe_defects, header_families, summarize_folds
from ichx.datasets.unscored_labels import with_unscored_labels
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import open_file, path_of, read_announced
from ichx.store import DatasetVersion, FoldSet
from ichx.text import format_count, format_examples
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.project import Project

CATALOG_FILE: Final = "catalog.parquet"
SAMPLE_FILE: Final = "sample.csv"
DEFAULT_FOLDS: Final = "default"
"""Name of the folds of every labelled version."""

RESTORE_REMEDY: Final = "Restore the file from a backup, or add a new version with `ichx data add`."

Content = TypeVar("Content")


@dataclass(frozen=True)
class LoadedDataset:
    """A version with its usable slices. Cache, folds and loader use the same row numbers."""

    version: DatasetVersion
    source: Path
    """Of the files; of no meaning for a mixture, whose slices have the sources of its parts."""
    slices: pd.DataFrame
    """Rows of the catalog without a defect by patient, study, series and order, index 0..n-1."""


def load_dataset(project: "Project", name: str, number: int | None = None) -> LoadedDataset:
    """Return version `number` (the newest if None) of dataset `name`.

    Raises `NotFoundError` for an unknown name or number, and like `load_catalog`.
    """
    return load_version(project.workspace, project.store.version(name, number))


def load_version(workspace: Workspace, version: DatasetVersion) -> LoadedDataset:
    """Return `version` with its slices. Raises like `load_catalog`."""
    slices = usable_slices(load_catalog(workspace, version))
    return LoadedDataset(version, path_of(version.source), with_parts(slices, version))


def load_catalog(workspace: Workspace, version: DatasetVersion) -> pd.DataFrame:
    """Return the catalog of `version`, one row per slice or excluded file.

    It has the columns of `with_study_labels` and `with_unscored_labels`.

    Raises `ChangedDataError` if a file was removed, `CorruptFileError` if it cannot be read.
    """
    catalog = _read(workspace, version, CATALOG_FILE, read_catalog)
    counts = version.summary.get("label_counts")
    if counts is None:
        return catalog
    if "groups" in counts:
        catalog = with_study_labels(catalog, _read(workspace, version, STUDY_LABELS_FILE, pd.read_parquet))
    return with_unscored_labels(catalog)


def has_slice(workspace: Workspace, version: DatasetVersion, slice_id: str) -> bool:
    """Return whether `version` has the usable slice `slice_id`. Raises like `load_catalog`."""
    wanted = [("slice_id", "==", slice_id)]
    read = partial(pd.read_parquet, columns=["slice_id", "defect"], filters=wanted)
    return bool(_read(workspace, version, CATALOG_FILE, read)["defect"].isna().any())


def load_folds(
    workspace: Workspace, version: DatasetVersion, fold_set: FoldSet, slices: pd.DataFrame | None = None
) -> npt.NDArray[np.int16]:
    """Return the fold of each row of the version's slices, (n,); `slices` are those if they are loaded already.

    Folds are 0 to k - 1, or `TRAIN_ONLY` for slices that train in every fold and are scored in none.

    Raises `ChangedDataError` if the file was removed or does not have one fold for each slice, and like `load_catalog`.
    """
    slices = load_version(workspace, version).slices if slices is None else slices
    folds = _read(workspace, version, folds_file(fold_set.name), pd.read_parquet)
    owner = "slice_id" if "slice_id" in folds else "patient"
    problem = ""
    if not {owner, "fold"} <= set(folds) or folds[owner].duplicated().any():
        problem = f"it does not have one fold per {owner}"
    else:
        found = folds.set_index(owner)["fold"].reindex(slices[owner])
        missing = slices["slice_id"].to_numpy(object)[~found.between(TRAIN_ONLY, fold_set.k - 1).to_numpy()]
        if not len(missing):
            return found.to_numpy(np.int16)
        problem = f"{format_count(len(missing), 'slice')} without a fold{format_examples(map(str, missing))}"
    raise ChangedDataError(
        f"The file of the folds {fold_set.name} of {version.dataset} version {version.number} was changed: {problem}.",
        RESTORE_REMEDY,
    )


def load_masks(workspace: Workspace, data: LoadedDataset) -> dict[int, bytes] | None:
    """Return the masks of the slices in `data` as PNGs by row, or None if its version has none.

    Raises `ChangedDataError` if masks were removed, and like `load_catalog`.
    """
    version = data.version
    summary = version.summary.get("masks")
    if summary is None:
        return None
    masks = _read(workspace, version, MASKS_FILE, lambda path: masks_by_row(pd.read_parquet(path), data.slices))
    if len(data.slices) == version.slices and len(masks) != summary["slices"]:  # `data` may have a part of the slices
        raise ChangedDataError(
            f"The masks of {version.dataset} version {version.number} were changed: "
            f"{format_count(len(masks), 'mask')} instead of {summary['slices']:,}.",
            RESTORE_REMEDY,
        )
    return masks


def read_version_table(
    workspace: Workspace, version: DatasetVersion, file: str, columns: list[str] | None = None
) -> pd.DataFrame:
    """Return `columns` (all if None) of a Parquet file of a version. Raises like `load_catalog`."""
    return _read(workspace, version, file, partial(pd.read_parquet, columns=columns))


def folds_file(name: str) -> str:
    """Return the file of the folds `name` in a version's folder: one row per patient, or per slice for leaky folds."""
    return f"folds-{name}.parquet"


def describe_dataset(project: "Project", name: str, number: int | None = None) -> dict[str, Any]:
    """Return a description of a version (the newest if `number` is None).

    `version`; `families` of headers; `series` and `geometry` (see `series`); `assumptions` and `defects`; `check`, the
    findings of decoding (see `decode_findings`; None without a check); `mixture`, its parts (see `list_parts`); the
    default `folds` (see `summary`). Raises like `load_dataset` and `load_folds`.
    """
    version = project.store.version(name, number)
    return describe_catalog(project.workspace, version, load_catalog(project.workspace, version))


def describe_catalog(workspace: Workspace, version: DatasetVersion, catalog: pd.DataFrame) -> dict[str, Any]:
    """Return `describe_dataset` of `version`, whose catalog is loaded already. Raises like `load_folds`."""
    slices = usable_slices(catalog)
    findings = read_findings(workspace.root / version.path)
    return {
        "version": version,
        "families": header_families(slices),
        "series": describe_series(slices),
        "geometry": describe_geometry(slices),
        "assumptions": describe_assumptions(slices),
        "defects": describe_defects(catalog),
        "check": None if findings is None else describe_findings(catalog, findings),
        "mixture": list_parts(version),
        "folds": [
            fold
            for fold_set in version.folds[:1]
            for fold in summarize_folds(slices, load_folds(workspace, version, fold_set, slices), fold_set.k)
        ],
    }


def _read(workspace: Workspace, version: DatasetVersion, file: str, read: Callable[[Path], Content]) -> Content:
    path = workspace.root / version.path / file
    try:
        read_announced(path, lambda: open_file(path).close())  # pyarrow would read a folder as a table of several files
        return read(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        kind = ChangedDataError if isinstance(error, FileNotFoundError) else CorruptFileError
        problem = f"Cannot read {path} of {version.dataset} version {version.number}: {error}."
        raise kind(problem, RESTORE_REMEDY) from error
