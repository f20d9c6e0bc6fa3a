"""Datasets: what a version of one is in the workspace, and reading it. Adding one is in `ichx.datasets.add`.

A version is immutable: a folder `datasets/NAME/vN/` with the catalog, the folds, the masks and the sample submission,
and a row in the store. Not for pixels (`ichx.cache.hu_cache`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import (
    read_catalog,
    usable,
)
from ichx.datasets.decode_findings import read_findings, told
from ichx.datasets.masks import MASKS_FILE, masks_by_row
from ichx.datasets.series import describe_geometry, describe_series
from ichx.datasets.summary import defects, header_families, summarize_folds
from ichx.errors import IchxError
from ichx.store import DatasetVersion, FoldSet
from ichx.text import format_count, format_examples
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.project import Project


CATALOG_FILE: Final = "catalog.parquet"
SAMPLE_FILE: Final = "sample.csv"
DEFAULT_FOLDS: Final = "default"
"""Name of the folds that every labelled version has."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class LoadedDataset:
    """A version with its slices: those without a defect, by patient, study, series and order, index 0..n-1.

    This numbering of the rows is the one that cache, folds and loader use. `source` is the folder of the files.
    """

    version: DatasetVersion
    source: Path
    slices: pd.DataFrame


def load_dataset(project: "Project", name: str, number: int | None = None) -> LoadedDataset:
    """Return version `number` (the newest when None) of dataset `name`.

    Raises `IchxError` for an unknown name or number, and where the version's files are gone.
    """
    return load_version(project.workspace, project.store.version(name, number))


def load_version(workspace: Workspace, version: DatasetVersion) -> LoadedDataset:
    """Return `version` with its slices. Raises `IchxError` where its catalog is gone."""
    catalog = load_catalog(workspace, version)
    return LoadedDataset(version, Path(version.source), usable(catalog))


def load_catalog(workspace: Workspace, version: DatasetVersion) -> pd.DataFrame:
    """Return the catalog of `version`, a row for each file, defects too. Raises `IchxError` where it is gone."""
    return _read(workspace, version, CATALOG_FILE, read_catalog)


def load_folds(
    workspace: Workspace, version: DatasetVersion, fold_set: FoldSet, slices: pd.DataFrame | None = None
) -> npt.NDArray[np.int16]:
    """Return the fold of each row of the version's `LoadedDataset.slices`, (n,); these are read where not given.

    Raises `IchxError` where the fold file or the catalog is gone, and where it does not give each slice one fold.
    """
    slices = load_version(workspace, version).slices if slices is None else slices
    folds = _read(workspace, version, folds_file(fold_set.name), pd.read_parquet)
    owner = "slice_id" if "slice_id" in folds else "patient"
    if not {owner, "fold"} <= set(folds) or folds[owner].duplicated().any():
        raise _broken_folds(version, fold_set, f"it does not give each {owner} one fold")
    found = folds.set_index(owner)["fold"].reindex(slices[owner])
    without = slices["slice_id"].to_numpy(object)[~found.between(0, fold_set.k - 1).to_numpy()]
    if len(without):
        ids = format_examples(map(str, without))
        told = f"{format_count(len(without), 'slice')} in none of its {fold_set.k} folds{ids}"
        raise _broken_folds(version, fold_set, told)
    return found.to_numpy(np.int16)


def load_masks(workspace: Workspace, data: LoadedDataset) -> dict[int, bytes] | None:
    """Return the masks of `data` as PNGs by row, or None where its version has none.

    Raises `IchxError` where the file is gone, or is not what the version knows.
    """
    facts = data.version.summary.get("masks")
    if facts is None:
        return None
    kept = _read(workspace, data.version, MASKS_FILE, lambda path: masks_by_row(pd.read_parquet(path), data.slices))
    if len(kept) != facts["slices"]:
        raise IchxError(
            f"the masks of {data.version.dataset} version {data.version.number} were changed: "
            f"{format_count(len(kept), 'mask')} instead of {facts['slices']:,}",
            "restore the file from a backup, or make a new version with `ichx data add`",
        )
    return kept


def _broken_folds(version: DatasetVersion, fold_set: FoldSet, told: str) -> IchxError:
    return IchxError(
        f"the file of the folds {fold_set.name} of {version.dataset} version {version.number} was changed: {told}",
        "restore the file from a backup, or make a new version with `ichx data add`",
    )


def folds_file(name: str) -> str:
    """Return the file of the folds `name` in a version's folder: a fold per patient, or per slice where they leak."""
    return f"folds-{name}.parquet"


def describe(project: "Project", name: str, number: int | None = None) -> dict[str, Any]:
    """Return what there is to tell of a version, the newest when `number` is None.

    `version`; `families` of headers; `series` and `geometry` (see `series`); `defects` by reason; `check`, what
    decoding showed (see `decode_findings`; None before); the default `folds` with their prevalences (see `summary`).
    Raises `IchxError` for an unknown name or number, and where the version's files are gone.
    """
    version = project.store.version(name, number)
    catalog = load_catalog(project.workspace, version)
    slices = usable(catalog)
    folds = [
        fold
        for fold_set in version.folds[:1]
        for fold in summarize_folds(slices, load_folds(project.workspace, version, fold_set, slices), fold_set.k)
    ]
    findings = read_findings(project.workspace.root / version.path)
    return {
        "version": version,
        "families": header_families(slices),
        "series": describe_series(slices),
        "geometry": describe_geometry(slices),
        "defects": defects(catalog),
        "check": None if findings is None else told(catalog, findings),
        "folds": folds,
    }


def _read(workspace: Workspace, version: DatasetVersion, file: str, read: Callable[[Path], Read]) -> Read:
    path = workspace.root / version.path / file
    try:
        return read(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise IchxError(
            f"{path}, a part of dataset {version.dataset} version {version.number}, cannot be read: {error}",
            f"make a new version with `ichx data add {version.dataset} ...`, or restore the file from a backup",
        ) from error
