"""Labels that differ between folds: pseudo-labels, which each fold's own networks predict.

A version with such labels has the file `fold-labels.parquet`. Its catalog has no labels, so that nothing can train a
fold on those of another. A slice without a row for a fold has no labels there.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import label_digest, write_parquet
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import open_file, read_announced
from ichx.labels import LABELS, PSEUDO

if TYPE_CHECKING:
    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace

FOLD_LABELS_FILE: Final = "fold-labels.parquet"
PSEUDO_PARTS: Final = "pseudo_parts"
"""Key of a mixture's summary: `path` and `digest` of the pseudo-labels of each part that has some, by its name, the
dataset `of` which they are, and the digests of its `masks` by fold if it has some."""

TRANSDUCTIVE: Final = "transductive"
"""Key of a version's summary: whether pseudo-labels are of patients of a test set, which marks every score."""

_RESTORE: Final = "Restore the file from a backup, or create the labels again with `ichx data pseudo`."

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FoldLabels:
    """Labels by slice and fold."""

    table: pd.DataFrame
    """`slice_id`, `fold` and the six labels (float32, NaN if unknown), sorted by fold and slice; index 0..n-1."""

    @classmethod
    def of(cls, by_fold: Mapping[int, tuple[npt.NDArray[np.object_], Float32Array]]) -> "FoldLabels":
        """Return the labels of folds, each the ids of slices `(N,)` and their labels `(N, 6)`."""
        parts = []
        for fold, (ids, labels) in sorted(by_fold.items()):
            part = pd.DataFrame(labels.astype(np.float32), columns=list(LABELS))
            part.insert(0, "fold", np.int16(fold))
            part.insert(0, "slice_id", ids)
            parts.append(part.sort_values("slice_id", kind="stable"))
        return cls(pd.concat(parts, ignore_index=True))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds with labels."""
        return tuple(sorted(int(fold) for fold in self.table["fold"].unique()))

    @property
    def digest(self) -> str:
        """16 hex digits of ids, folds and labels."""
        digest = hashlib.sha256()
        digest.update("\n".join(map(str, self.table["slice_id"])).encode())
        digest.update(np.ascontiguousarray(self.table["fold"].to_numpy("<i2")).tobytes())
        digest.update(np.ascontiguousarray(self.table[list(LABELS)].to_numpy("<f4")).tobytes())
        return digest.hexdigest()[:16]

    def of_fold(self, fold: int, slice_ids: npt.NDArray[np.object_]) -> Float32Array:
        """Return the labels `(N, 6)` of slices in `fold`, NaN for a slice without labels."""
        part = self.table[self.table["fold"] == fold]
        place = pd.Index(part["slice_id"]).get_indexer(pd.Index(slice_ids))
        labels = np.full((len(slice_ids), len(LABELS)), np.nan, np.float32)
        labels[place >= 0] = part[list(LABELS)].to_numpy(np.float32)[place[place >= 0]]
        return labels

    def ranges(self, slice_ids: npt.NDArray[np.object_]) -> Float32Array:
        """Return the smallest and the largest labels `(2, N, 6)` of slices over the folds, NaN without labels."""
        low = high = np.full((len(slice_ids), len(LABELS)), np.nan, np.float32)
        for fold in self.folds:
            labels = self.of_fold(fold, slice_ids)
            low, high = np.fmin(low, labels), np.fmax(high, labels)
        return np.stack([low, high])

    def training_slices(self, slices: pd.DataFrame, fold: int) -> pd.DataFrame:
        """Return `slices`, rows of a catalog, with the labels that the training of `fold` reads."""
        own = self.of_fold(fold, slices["slice_id"].to_numpy(object))
        known = ~np.isnan(own).all(axis=1)
        labels = slices[list(LABELS)].to_numpy(np.float32)
        labels[known] = own[known]
        return slices.assign(**{label: labels[:, k] for k, label in enumerate(LABELS)})

    def write(self, folder: Path) -> None:
        """Write the file to the folder of a version. Raises `StorageError`."""
        write_parquet(self.table, folder / FOLD_LABELS_FILE)


def read_fold_labels(workspace: "Workspace", version: "DatasetVersion") -> FoldLabels | None:
    """Return the labels by fold of `version`, those of all parts of a mixture; None if it has none.

    Raises:
        ChangedDataError: A file is missing or differs from its record.
        CorruptFileError: It is damaged.
    """
    if PSEUDO in version.summary:
        return joint_fold_labels(workspace, [version])
    parts = version.summary.get(PSEUDO_PARTS, {})
    return _joint(_read(workspace.root / one["path"], name, one["digest"]) for name, one in parts.items())


def joint_fold_labels(workspace: "Workspace", versions: "Iterable[DatasetVersion]") -> FoldLabels | None:
    """Return the labels by fold of all `versions` that have some; None without any. Raises like `read_fold_labels`."""
    having = [version for version in versions if PSEUDO in version.summary]
    return _joint(_read(workspace.root / v.path, v.dataset, v.summary[PSEUDO]["digest"]) for v in having)


def _joint(labels: Iterable[FoldLabels]) -> FoldLabels | None:
    tables = [one.table for one in labels]
    if len(tables) < 2:
        return FoldLabels(tables[0]) if tables else None
    return FoldLabels(pd.concat(tables).sort_values(["fold", "slice_id"], kind="stable", ignore_index=True))


def _read(folder: Path, name: str, digest: str) -> FoldLabels:
    """Return the labels in the folder of a version of the dataset `name`, which have this digest."""
    path = folder / FOLD_LABELS_FILE
    try:
        read_announced(path, lambda: open_file(path).close())
        labels = FoldLabels(pd.read_parquet(path)[["slice_id", "fold", *LABELS]])
        found = labels.digest
    except FileNotFoundError as error:
        raise ChangedDataError(f"{path} is missing.", _RESTORE) from error
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        raise CorruptFileError(f"Cannot read {path}: {error}.", _RESTORE) from error
    if found != digest:
        raise ChangedDataError(
            f"The pseudo-labels of {name} were changed: {path} has digest {found}, recorded {digest}.", _RESTORE
        )
    return labels


def training_label_digest(slices: pd.DataFrame, fold_labels: FoldLabels | None) -> str:
    """Return 16 hex digits of the labels that trainings read: those of the catalog, and those by fold if there are."""
    digest = label_digest(slices)
    if fold_labels is None:
        return digest
    return hashlib.sha256(f"{digest} {fold_labels.digest}".encode()).hexdigest()[:16]
