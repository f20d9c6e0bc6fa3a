"""Labels of several readers of the same studies: `readers.parquet` in the folder of a version.

Columns: `study` (as in the catalog), `reader` (e.g. `R1`), `label`, `value` (0 or 1; NaN: not read). The labels of the
version itself, e.g. the majority, are in its catalog. Agreement is computed in `ichx.evaluation.reader_agreement`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import CorruptFileError, InvalidInputError
from ichx.labels import LABELS
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace

READERS_FILE: Final = "readers.parquet"
COLUMNS: Final = ("study", "reader", "label", "value")
MAX_READERS: Final = 50


@dataclass(frozen=True)
class ReaderLabels:
    """What R readers say of S studies."""

    studies: npt.NDArray[np.object_]
    """Ids of the catalog, `(S,)`, sorted."""
    readers: tuple[str, ...]
    """Sorted."""
    values: dict[str, npt.NDArray[np.float64]]
    """Per label `(S, R)`: 0, 1, or NaN where a reader did not read."""


def check_reader_labels(table: pd.DataFrame) -> ReaderLabels:
    """Return the labels in a table with the columns `COLUMNS`.

    Raises:
        InvalidInputError: A column is missing, a label is unknown, a value is not 0 or 1, or a reader has two values.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise InvalidInputError(
            f"The readers' labels have no column {', '.join(missing)}.", f"Use the columns {', '.join(COLUMNS)}."
        )
    table = table[list(COLUMNS)].dropna(subset=["study", "reader", "label"])
    unknown = sorted(set(table["label"].astype(str)) - set(LABELS))
    if unknown:
        raise InvalidInputError(
            f"The readers' labels have {format_count(len(unknown), 'unknown label')}{format_examples(unknown)}.",
            f"Use {', '.join(LABELS)}.",
        )
    values = pd.to_numeric(table["value"], errors="coerce")
    wrong = table[(values.isna() & table["value"].notna()) | ~(values.isna() | values.isin([0.0, 1.0]))]
    if len(wrong):
        examples = [f"{row.study}, {row.reader}, {row.label}: {row.value}" for row in wrong.head(3).itertuples()]
        raise InvalidInputError(
            f"{format_count(len(wrong), 'value')} of readers are not 0 or 1{format_examples(examples, len(wrong))}.",
            "Use 0, 1, or an empty value for studies that a reader did not read.",
        )
    keys = ["study", "reader", "label"]
    again = table[table.duplicated(keys)]
    if len(again):
        examples = [f"{row.study}, {row.reader}, {row.label}" for row in again.head(3).itertuples()]
        raise InvalidInputError(
            f"{format_count(len(again), 'repeated value')} of a reader{format_examples(examples, len(again))}.",
            "Keep one row per study, reader and label.",
        )
    studies = np.array(sorted(table["study"].astype(str).unique()), object)
    readers = tuple(sorted(table["reader"].astype(str).unique()))
    if len(readers) > MAX_READERS:
        raise InvalidInputError(
            f"The readers' labels have {len(readers):,} readers.", f"Use at most {MAX_READERS}; `reader` is a name."
        )
    found = {}
    for label in LABELS:
        of = table["label"] == label
        if of.any():
            grid = np.full((len(studies), len(readers)), np.nan)
            rows = np.searchsorted(studies.astype(str), table["study"][of].astype(str))
            columns = np.searchsorted(np.array(readers), table["reader"][of].astype(str))
            grid[rows, columns] = values[of]
            found[label] = grid
    return ReaderLabels(studies, readers, found)


def read_reader_labels(workspace: "Workspace", version: "DatasetVersion") -> ReaderLabels | None:
    """Return the readers' labels of a version; None if it has none.

    Raises `CorruptFileError` if the file is damaged.
    """
    path = workspace.root / version.path / READERS_FILE
    if not path.exists():
        return None
    try:
        return check_reader_labels(pd.read_parquet(path))
    except (OSError, ValueError, TypeError, InvalidInputError) as error:
        problem = error.problem if isinstance(error, InvalidInputError) else str(error).splitlines()[0]
        raise CorruptFileError(
            f"Cannot read {path}: {problem}", "Restore the file from a backup, or add the dataset again."
        ) from error
