"""Ids of a CSV to rows of a catalog: by SOPInstanceUID, or by file name when every id matches that way.

Not for reading the CSV (`ichx.datasets.label_csv`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.label_csv import LabelTable
from ichx.errors import IchxError
from ichx.labels import LABELS


@dataclass(frozen=True)
class Match:
    """How the images of a CSV fit the rows of a catalog.

    `by` is the catalog's column, `slice_id` or `stem`. `image` (N,) is each row's image, -1 for none. `absent` images
    are in no file; `defective` ones only in files that are refused.
    """

    by: str
    image: npt.NDArray[np.int64]
    absent: int
    absent_examples: tuple[str, ...]
    defective: int

    @property
    def told(self) -> str:
        """What the ids were compared with, in words."""
        return "SOPInstanceUID" if self.by == "slice_id" else "file name"


def match_images(catalog: pd.DataFrame, images: npt.NDArray[np.object_], path: Path) -> Match:
    """Return which row of `catalog` each of `images` (unique ids of the CSV at `path`) speaks of.

    Raises `IchxError`, with examples of both sides, where no slice matches.
    """
    good = catalog["defect"].isna()
    ids = pd.Index(images)
    by = "slice_id"
    row_image = ids.get_indexer(pd.Index(catalog["slice_id"]))
    if not (row_image[good.to_numpy()] >= 0).any():
        by = "stem"
        row_image = ids.get_indexer(pd.Index(catalog["stem"]))
        named_alike = catalog["stem"][good].duplicated().any()
        if named_alike or not ids.isin(catalog["stem"]).all() or not (row_image[good.to_numpy()] >= 0).any():
            first = catalog[good].iloc[0]
            raise IchxError(
                f"no id in {path} belongs to a slice: it says such as {str(images[0])!r}, "
                f"the first slice is {first['slice_id']!r} in the file {first['file']!r}",
                "ids must be SOPInstanceUIDs, or all of them file names (without extension) that occur once",
            )
    row_image = np.where(good, row_image, -1)
    found = np.zeros(len(images), bool)
    found[row_image[row_image >= 0]] = True
    refused = ~found & (ids.isin(catalog["stem"][~good]) | ids.isin(catalog["slice_id"][~good]))
    absent = np.flatnonzero(~found & ~refused)
    return Match(by, row_image, len(absent), tuple(map(str, images[absent[:3]])), int(refused.sum()))


def join_labels(catalog: pd.DataFrame, table: LabelTable, path: Path) -> tuple[pd.DataFrame, Match]:
    """Return `catalog` with the labels of `table`, and how they matched; a slice without any is a defect `no_label`."""
    match = match_images(catalog, table.images, path)
    labelled = match.image >= 0
    values = np.where(labelled[:, None], table.values[match.image], np.nan).astype(np.float32)
    joined = catalog.assign(**{name: values[:, i] for i, name in enumerate(LABELS)})
    joined.loc[~labelled & joined["defect"].isna(), "defect"] = "no_label"
    return joined, match
