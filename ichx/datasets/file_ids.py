"""Ids and facts about patients that tables and names of files add to scanned files, which lack them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from ichx.ct.acquisition import age_band
from ichx.ct.nifti import NIFTI_SYNTAX
from ichx.datasets.formats.contract import FileIds

_COLUMNS: Final = {"patient_id": "patient", "study_id": "study", "sex": "sex", "age": "age"}


def with_file_ids(scan: pd.DataFrame, ids: Mapping[str, FileIds]) -> pd.DataFrame:
    """Return `scan`, a result of `scan_source`, with the given ids of files by name; empty ones change nothing."""
    if not ids:
        return scan
    changed = scan.copy()
    given = [ids.get(name, FileIds()) for name in scan["file"]]
    good = (scan["defect"] == "").to_numpy()
    volumes = np.array([one.volume for one in given], object)
    named = good & (volumes != "") & (scan["transfer_syntax"] == NIFTI_SYNTAX).to_numpy()
    for column in ("patient_id", "study_id", "series_id"):
        changed.loc[named, column] = volumes[named]
    frames = scan["frame"].to_numpy()
    slice_ids = [f"{volume}#{frame:03d}" for volume, frame in zip(volumes[named], frames[named], strict=True)]
    changed.loc[named, "slice_id"] = np.array(slice_ids, object)
    for column, attribute in _COLUMNS.items():
        texts = [getattr(one, attribute) for one in given]
        values = np.array([age_band(text) for text in texts] if column == "age" else texts, object)
        use = good & (values != "")
        changed.loc[use, column] = values[use]
    return changed
