"""Masks that differ between folds: pseudo-masks, which each fold's own networks predict, next to `fold_labels`.

A version with such masks has a file per fold. A pixel is 0, 1 + the index of a subtype, or `UNKNOWN_MASK`, which the
loss leaves out. A slice without a row for a fold has no mask there.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import write_parquet
from ichx.datasets.fold_labels import PSEUDO_PARTS
from ichx.datasets.mask_png import decode_mask
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import open_file, read_announced
from ichx.labels import PSEUDO

if TYPE_CHECKING:
    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace

MASKS: Final = "masks"
"""Key of the origin of pseudo-labels with that of their masks, see `ichx.evaluation.pseudo_masks`."""

_RESTORE: Final = "Restore the file from a backup, or create the masks again with `ichx data pseudo --masks`."


@dataclass(frozen=True)
class FoldMasks:
    """The masks of one fold."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`, sorted."""
    pngs: list[bytes]
    """PNG of each mask, with the size of its slice."""

    @property
    def digest(self) -> str:
        """16 hex digits of ids and PNGs."""
        digest = hashlib.sha256()
        for name, png in zip(self.slice_ids, self.pngs, strict=True):
            digest.update(f"{name}\t{hashlib.sha256(png).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    def by_row(self, slices: pd.DataFrame) -> dict[int, bytes]:
        """Return the PNGs by row of `slices`, rows of a catalog; those of other slices are left out."""
        rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(self.slice_ids))
        return {int(row): png for row, png in zip(rows, self.pngs, strict=True) if row >= 0}

    def write(self, folder: Path, fold: int) -> None:
        """Write the file of `fold` to the folder of a version. Raises `StorageError`."""
        table = pd.DataFrame({"slice_id": pd.Series(self.slice_ids, dtype=object), "png": self.pngs})
        write_parquet(table, folder / fold_masks_file(fold))


@dataclass(frozen=True)
class MasksByFold:
    """Where the pseudo-masks of a dataset are."""

    dataset: str
    path: str
    """Folder of the version in the workspace."""
    digests: Mapping[int, str]
    """Of the masks by fold."""

    def read(self, workspace: "Workspace", fold: int) -> FoldMasks:
        """Return the masks of a fold.

        Raises:
            ChangedDataError: The file is missing or differs from its record.
            CorruptFileError: It is damaged.
        """
        path = workspace.root / self.path / fold_masks_file(fold)
        try:
            read_announced(path, lambda: open_file(path).close())
            table = pd.read_parquet(path)
            masks = FoldMasks(table["slice_id"].to_numpy(object), table["png"].tolist())
            found = masks.digest
        except FileNotFoundError as error:
            raise ChangedDataError(f"{path} is missing.", _RESTORE) from error
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
            raise CorruptFileError(f"Cannot read {path}: {error}.", _RESTORE) from error
        if found != self.digests[fold]:
            raise ChangedDataError(
                f"The pseudo-masks of {self.dataset} were changed: {path} has digest {found}, recorded "
                f"{self.digests[fold]}.",
                _RESTORE,
            )
        return masks


def masked_slices(workspace: "Workspace", masks: Mapping[str, MasksByFold]) -> set[str]:
    """Return the slices with a mask in some fold, from files that exist; the masks themselves are not read."""
    files = [workspace.root / one.path / fold_masks_file(fold) for one in masks.values() for fold in one.digests]
    tables = [pd.read_parquet(path, columns=["slice_id"]) for path in files if path.is_file()]
    return {name for table in tables for name in table["slice_id"]}


def read_fold_mask(
    workspace: "Workspace", masks: Mapping[str, MasksByFold], slice_id: str
) -> tuple[int, npt.NDArray[np.uint8]] | None:
    """Return the first fold with a mask of a slice, and the mask (H, W); None if it has none.

    Raises:
        ChangedDataError: A file is missing.
        CorruptFileError: It is damaged.
    """
    import pyarrow.parquet as pq

    for one in masks.values():
        for fold in sorted(one.digests):
            path = workspace.root / one.path / fold_masks_file(fold)
            try:
                table = pq.read_table(path, columns=["png"], filters=[("slice_id", "==", slice_id)])
                if len(table):
                    return fold, decode_mask(table["png"][0].as_py())
            except FileNotFoundError as error:
                raise ChangedDataError("The file with the pseudo-masks is missing.", _RESTORE) from error
            except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
                raise CorruptFileError(f"Cannot read the pseudo-mask of slice {slice_id}.", _RESTORE) from error
    return None


def fold_masks_file(fold: int) -> str:
    """Return the name of the file with the masks of a fold."""
    return f"fold-masks-{fold}.parquet"


def masks_of_parts(version: "DatasetVersion") -> dict[str, MasksByFold]:
    """Return the pseudo-masks of `version`, those of each part of a mixture, by dataset; empty if it has none."""
    if PSEUDO in version.summary:
        parts: dict[str, dict[str, Any]] = {version.dataset: part_facts(version)}
    else:
        parts = version.summary.get(PSEUDO_PARTS, {})
    return {
        name: MasksByFold(name, part["path"], {int(fold): digest for fold, digest in part[MASKS].items()})
        for name, part in parts.items()
        if MASKS in part
    }


def part_facts(version: "DatasetVersion") -> dict[str, Any]:
    """Return what a mixture records of a part with pseudo-labels; see `PSEUDO_PARTS`."""
    origin = version.summary[PSEUDO]
    facts = {"path": version.path, "digest": origin["digest"], "of": origin["of"]["dataset"]}
    return facts | ({MASKS: origin[MASKS]["digests"]} if origin.get(MASKS) else {})
