"""The slices and studies that an evaluation scored, with their labels and probabilities, as tables and files."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ichx.datasets.catalog import hash_ids
from ichx.datasets.mixture import SOURCE
from ichx.errors import ChangedDataError
from ichx.evaluation.choices import Pooling
from ichx.evaluation.metric import FloatArray, single_losses
from ichx.evaluation.scores import pool_studies
from ichx.files import path_of
from ichx.inference.evaluate import EvaluatedSlices
from ichx.inference.file_catalog import HASHED, scan_files
from ichx.inference.prediction_files import as_records, write_tables
from ichx.labels import LABELS
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.datasets.ingest import ProgressCallback
    from ichx.workspace import Workspace


def hashed_ids(workspace: "Workspace", found: EvaluatedSlices) -> pd.DataFrame:
    """Return the keyed hashes of patient, study and series of the slices, `(N, 3)`, also of a dataset that has ids."""
    slices = found.slices[list(HASHED)]
    if not found.data.version.summary.get("keep_ids"):
        return slices
    key = workspace.privacy_key()
    return pd.DataFrame({name: hash_ids(slices[name], key) for name in HASHED})


def real_ids(found: EvaluatedSlices, progress: "ProgressCallback") -> pd.DataFrame:
    """Return the ids of patient, study and series of the slices, `(N, 3)`, read from the headers of their files.

    Raises `ChangedDataError` if files were removed or changed. `progress` receives (done, total) files.
    """
    if found.data.version.summary.get("keep_ids"):
        return found.slices[list(HASHED)]
    place = ["file", "frame", "bytes", "mtime_ns"]
    if SOURCE in found.slices:  # a mixture
        place.append(SOURCE)
        sources = found.slices[SOURCE].drop_duplicates()
        scanned = [scan_files(path_of(name), progress).catalog(None).assign(**{SOURCE: name}) for name in sources]
        catalog = pd.concat(scanned, ignore_index=True)
    else:
        catalog = scan_files(found.data.source, progress).catalog(None)
    catalog = catalog.drop_duplicates(place)
    ids = found.slices[place].merge(catalog[[*place, *HASHED]], on=place, how="left")
    gone = ids["file"][ids["patient"].isna()]
    if len(gone):
        raise ChangedDataError(
            f"{format_count(gone.nunique(), 'file')} of {found.data.version.dataset} removed or changed"
            f"{format_examples(gone.drop_duplicates(), gone.nunique())}.",
            "Restore the files, or evaluate without --keep-ids.",
        )
    return ids[list(HASHED)]


def case_tables(found: EvaluatedSlices, ids: pd.DataFrame, pooling: Pooling) -> dict[str, pd.DataFrame]:
    """Return the tables `slices` and `studies`, with a row each, the highest loss first.

    Columns: ids, the slice's `order` or the study's number of `slices`, the weighted log loss `loss`, and per label its
    truth `true_LABEL` and its probability.

    Args:
        found: The scored slices.
        ids: `patient`, `study` and `series` of each slice, `(N, 3)`.
        pooling: How slices are pooled to studies.
    """
    slices = ids.reset_index(drop=True)
    slices.insert(0, "slice_id", found.slices["slice_id"].to_numpy(object))
    slices["order"] = found.slices["order"].to_numpy()
    study = found.slices["study"]
    pooled = pool_studies(found.labels_to_pool, found.probabilities, study, pooling, found.study_probabilities)
    studies = slices.loc[pooled.row, ["patient", "study"]].reset_index(drop=True)
    studies["slices"] = np.bincount(pd.factorize(study)[0])
    return {
        "slices": _with_scores(slices, found.labels, found.probabilities),
        "studies": _with_scores(studies, pooled.labels, pooled.probabilities),
    }


def write_cases(path: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Write `tables` in the format of the suffix of `path`; return the files. Raises `StorageError`."""
    return write_tables(path, tables, {name: as_records(table) for name, table in tables.items()})


def _with_scores(rows: pd.DataFrame, labels: FloatArray, predicted: FloatArray) -> pd.DataFrame:
    rows["loss"] = single_losses(labels, predicted)
    rows[[f"true_{name}" for name in LABELS]] = labels
    rows[list(LABELS)] = predicted
    return rows.sort_values("loss", ascending=False, kind="stable", ignore_index=True)
