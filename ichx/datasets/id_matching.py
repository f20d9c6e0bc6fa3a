"""Matching the ids of a CSV with the rows of a catalog. CSV files are read in `label_csv`."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.ingest import file_stem
from ichx.errors import InvalidInputError
from ichx.text import EXAMPLES, format_count, format_examples

COLUMN_NAMES: Final = {"slice_id": "SOPInstanceUID", "stem": "file name", "file": "path", "patient": "PatientID"}
"""Names of columns of the catalog in messages."""


@dataclass(frozen=True)
class IdMatch:
    """The images of a CSV and the rows of a catalog that match."""

    by: str
    """Matched column of the catalog, `slice_id` or `stem`; or the kind of id of a group, see `IdKind`."""
    image: npt.NDArray[np.int64]
    """(N,) image of each row, -1 for none."""
    absent: int
    """Images without a file."""
    absent_examples: tuple[str, ...]
    defective: int
    """Images whose files are all excluded."""


def match_images(catalog: pd.DataFrame, images: npt.NDArray[np.object_], path: Path | str) -> IdMatch:
    """Match `images`, the distinct ids of the file at `path`, with the rows of `catalog`.

    Ids are SOPInstanceUIDs; or file names, if no id is a SOPInstanceUID. Raises `InvalidInputError` if no slice matches
    or an id is the name of several files.
    """
    good = catalog["defect"].isna().to_numpy()
    by = "slice_id"
    ids: pd.Index[Any] = pd.Index(images)
    known: pd.Index[Any] = pd.Index(catalog["slice_id"])
    row_image = ids.get_indexer(known)
    if not (row_image[good] >= 0).any():
        by = "stem"
        ids, known = _comparable_names(pd.Index(images), pd.Index(catalog["stem"]))
        row_image = ids.get_indexer(known)
        if not (row_image[good] >= 0).any():
            first = catalog[good].iloc[0]
            raise InvalidInputError(
                f"No id in {path} matches a slice. An id of the file is {str(images[0])!r}; "
                f"the first slice is {first['slice_id']!r} in the file {first['file']!r}.",
                "Use SOPInstanceUIDs, or file names without extension that are distinct.",
            )
        matched = row_image[good & (row_image >= 0)]
        twice = np.flatnonzero(np.bincount(matched, minlength=len(images)) > 1)
        if len(twice):
            named = [
                f"{images[i]}: {' and '.join(catalog['file'][good & (row_image == i)][:2])}" for i in twice[:EXAMPLES]
            ]
            raise InvalidInputError(
                f"{path}: {format_count(len(twice), 'id')} with several files of that name"
                f"{format_examples(named, len(twice))}.",
                "Use SOPInstanceUIDs, or file names that are distinct.",
            )
    row_image = np.where(good, row_image, -1)
    found = np.zeros(len(images), bool)
    found[row_image[row_image >= 0]] = True
    names = pd.concat([catalog["slice_id"][~good], catalog["stem"][~good]])
    excluded = ~found & (ids.isin(known[~good]) | pd.Index(images).isin(names))
    absent = np.flatnonzero(~found & ~excluded)
    return IdMatch(by, row_image, len(absent), tuple(map(str, images[absent[:EXAMPLES]])), int(excluded.sum()))


def spell_like(ids: npt.NDArray[np.object_], names: "pd.Series[str]") -> npt.NDArray[np.object_]:
    """Return `ids` in the spelling of the file `names` that they match, see `match_images`."""
    forms, known = _comparable_names(pd.Index(ids), pd.Index(names))
    spelling = dict(zip(known, names, strict=True))
    return np.array([spelling.get(form, own) for form, own in zip(forms, ids, strict=True)], object)


def _comparable_names(images: "pd.Index[str]", stems: "pd.Index[str]") -> tuple["pd.Index[str]", "pd.Index[str]"]:
    """Return ids and file names in the form in which most ids match: as they are, or as other systems spell them."""
    best, most = (images, stems), -1
    for form in (str, _composed, _caseless_stem):
        ids, names = pd.Index(list(map(form, images))), pd.Index(list(map(form, stems)))
        count = int(ids.isin(names).sum())
        if ids.is_unique and count > most:
            best, most = (ids, names), count
    return best


def _composed(name: str) -> str:
    """Return a name in the Unicode form of most systems; macOS decomposes names."""
    return unicodedata.normalize("NFC", name)


def _caseless_stem(name: str) -> str:
    return _composed(file_stem(name.replace("\\", "/"))).casefold()
