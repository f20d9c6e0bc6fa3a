"""Ids and facts about patients that tables and names of files add to scanned files, which lack them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from ichx.ct.acquisition import age_band
from ichx.datasets.formats.contract import FileIds

_COLUMNS: Final = {"patient_id": "patient", "study_id": "study", "sex": "sex", "age": "age"}


def with_file_ids(scan: pd.DataFrame, ids: Mapping[str, FileIds]) -> pd.DataFrame:
    """Return `scan`, a result of `scan_source`, with the given ids of files by name; empty ones change nothing."""
    if not ids:
        return scan
    changed = scan.copy()
    given = [ids.get(name, FileIds()) for name in scan["file"]]
    good = (scan["defect"] == "").to_numpy()
    for column, attribute in _COLUMNS.items():
        texts = [getattr(one, attribute) for one in given]
        values = np.array([age_band(text) for text in texts] if column == "age" else texts, object)
        use = good & (values != "")
        changed.loc[use, column] = values[use]
    return changed
