"""What a new version of a dataset consists of, before its files are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import write_catalog, write_parquet
from ichx.datasets.dataset import CATALOG_FILE, DEFAULT_FOLDS, SAMPLE_FILE, folds_file
from ichx.datasets.label_csv import SampleTable
from ichx.datasets.mask_png import MASKS_FILE
from ichx.datasets.study_labels import STUDY_LABELS_FILE


@dataclass(frozen=True)
class PreparedVersion:
    """What a version consists of."""

    source: Path
    """What was scanned: the source of the request, or the folder in it that has the slices."""
    catalog: pd.DataFrame
    slices: pd.DataFrame
    labelled: bool
    summary: dict[str, Any]
    study_labels: pd.DataFrame | None
    folds: npt.NDArray[np.int16] | None
    masks: pd.DataFrame | None
    sample: SampleTable | None
    tables: Mapping[str, pd.DataFrame]
    """Further tables by the name of their file: `ichx.datasets.overlap`, `reader_labels` and `study_flags`."""

    def write(self, folder: Path) -> None:
        """Write the version's files to `folder`."""
        write_catalog(self.catalog, folder / CATALOG_FILE)
        for file, table in self.tables.items():
            write_parquet(table, folder / file)
        if self.folds is not None:
            by_patient = pd.DataFrame({"patient": self.slices["patient"], "fold": self.folds}).drop_duplicates()
            write_parquet(by_patient, folder / folds_file(DEFAULT_FOLDS))
        if self.study_labels is not None:
            write_parquet(self.study_labels, folder / STUDY_LABELS_FILE)
        if self.masks is not None:
            write_parquet(self.masks, folder / MASKS_FILE)
        if self.sample is not None:
            pd.DataFrame({"ID": self.sample.ids, "Label": 0.5}).to_csv(folder / SAMPLE_FILE, index=False)
