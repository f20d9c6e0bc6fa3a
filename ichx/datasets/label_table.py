"""Labels of slices, series, studies or patients under the ids of their source, before they are joined to a catalog.

Every source of labels makes a `LabelTable`: label CSVs (`label_csv`), spreadsheets (`label_sheet`) and formats. Tables
are joined in `label_join`.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ichx.labels import ANY, LABELS

Level = Literal["slice", "series", "study", "patient"]
"""What a row of a label table describes."""

IdKind = Literal[
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "folder", "file"
]
"""What the ids of a label table are.

- `SOPInstanceUID`: or, if no id is one, the file name without extension
- `folder`: a folder of the source, by name or by path relative to the source
- `file`: a file of the source, by name with or without extension, or by path relative to the source
"""

LEVELS: Final[dict[IdKind, Level | None]] = {
    "SOPInstanceUID": "slice",
    "SeriesInstanceUID": "series",
    "StudyInstanceUID": "study",
    "AccessionNumber": "study",
    "PatientID": "patient",
    "folder": None,
    "file": None,
}
"""The level that ids of a kind imply; None if the files decide: see `label_join`."""

_AT_ANY: Final = LABELS.index(ANY)


@dataclass(frozen=True)
class LabelTable:
    """Labels by id; a label that is not known is NaN."""

    ids: npt.NDArray[np.object_]
    """(N,) distinct texts, in the order of their first rows."""
    values: npt.NDArray[np.float32]
    """(N, 6) in [0, 1], or NaN where unknown."""
    level: Level | None = "slice"
    """What an id describes; None if the files decide: a folder or file with one series, one study or one slice."""
    kind: IdKind | None = "SOPInstanceUID"
    """What the ids are; None if the files decide: the kind of which the most ids match."""
    origin: str = "the labels"
    """Name of the source in messages, e.g. the path of the CSV."""
    duplicates: int = 0
    """Rows that repeat another row."""
    any_differs: int = 0
    """Ids whose `any` is not the maximum of the subtypes."""
    any_examples: tuple[str, ...] = ()
    """Some of them."""
    any_computed: bool = False
    """The source has no `any`: it is derived from the subtypes, see `derive_labels`."""

    @property
    def partial(self) -> bool:
        """Whether a label of an id is unknown."""
        return bool(np.isnan(self.values).any())


def derive_labels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return `values` (N, 6) with the unknown labels that follow from the known ones.

    - `any` is 1 if a subtype is 1, and the maximum of the subtypes if all are known
    - every subtype is 0 if `any` is 0
    - everything else remains unknown
    """
    derived = values.copy()
    subtypes, found = derived[:, :_AT_ANY], derived[:, _AT_ANY]
    unknown = np.isnan(found)
    complete = unknown & ~np.isnan(subtypes).any(axis=1)
    found[complete] = subtypes[complete].max(axis=1)
    found[unknown & (subtypes == 1).any(axis=1)] = 1
    subtypes[np.isnan(subtypes) & (found == 0)[:, None]] = 0
    return derived


def count_labels(values: npt.NDArray[np.floating[Any]]) -> dict[str, dict[str, int]]:
    """Return the number of known, positive and unknown rows of each label of `values` (N, 6)."""
    return {
        name: {
            "known": int((~np.isnan(column)).sum()),
            "positive": int((column > 0.5).sum()),
            "unknown": int(np.isnan(column).sum()),
        }
        for name, column in zip(LABELS, values.T, strict=True)
    }
