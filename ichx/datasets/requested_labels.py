"""The labels that a request to add a dataset names, read and joined to its catalog."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from ichx.datasets.accession import read_accession_numbers
from ichx.datasets.label_csv import read_labels
from ichx.datasets.label_join import JoinedLabels, join_label_tables
from ichx.datasets.label_sheet import SheetColumns, read_label_sheet
from ichx.datasets.label_table import LabelTable
from ichx.datasets.xlsx_text import is_xlsx


def read_label_file(path: Path, columns: SheetColumns | None) -> LabelTable:
    """Return the labels at `path`: a label CSV if no `columns` are named, else a spreadsheet. Raises like both."""
    if columns is None and not is_xlsx(path):
        return read_labels(path)
    return read_label_sheet(path, columns or SheetColumns())


def join_requested_labels(
    tables: Sequence[LabelTable], source: Path, scan: pd.DataFrame, catalog: pd.DataFrame
) -> JoinedLabels | None:
    """Return `catalog` with the labels of `tables`, or None if there are none. Raises like `join_label_tables`.

    Args:
        tables: The labels.
        source: What was scanned, to read AccessionNumbers if ids are that.
        scan: What the catalog was built from; the same rows.
        catalog: Without labels.
    """
    if not tables:
        return None
    return join_label_tables(catalog, scan, tables, cache(lambda: read_accession_numbers(source, scan)))
