"""What formats know of studies beside labels: labels of single readers, and flags, e.g. `chronic_bleed`.

Flags are stored in `study-flags.parquet` (`study` as in the catalog, `flag`, `value` 0 or 1), labels of readers as
`ichx.datasets.reader_labels` describes.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from ichx.datasets.formats.contract import FormatContents
from ichx.datasets.group_matching import match_groups
from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.label_table import LabelTable
from ichx.datasets.reader_labels import READERS_FILE
from ichx.labels import LABELS
from ichx.text import format_count

FLAGS_FILE: Final = "study-flags.parquet"


def studies_of_format(
    contents: FormatContents, catalog: pd.DataFrame, scan: pd.DataFrame, report: IngestReport
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return the tables of readers and flags in `contents`, by file: the key of the summary, and the table.

    Args:
        contents: What a format read.
        catalog: The catalog of the new version.
        scan: What it was built from; the same rows.
        report: Receives the counts.
    """
    found = {}
    matches: dict[tuple[str, ...], pd.Series[str]] = {}  # most tables have the same ids

    def study_of(table: LabelTable) -> "pd.Series[str]":
        key = (str(table.kind), str(table.level), *map(str, table.ids))
        if key not in matches:
            matches[key] = _study_of(catalog, scan, table)
        return matches[key]

    readers = [_reader_rows(name, table, study_of(table)) for name, table in sorted(contents.readers.items())]
    if readers:
        table = pd.concat(readers, ignore_index=True)
        found[READERS_FILE] = ("readers", table)
        report.inform(
            f"Stored the labels of {format_count(len(readers), 'reader')} of "
            f"{format_count(table['study'].nunique(), 'study', 'studies')}."
        )
    flags = [
        _flag_rows(name, values, study_of(_without_labels(list(values), name)))
        for name, values in sorted(contents.flags.items())
    ]
    if flags:
        table = pd.concat(flags, ignore_index=True)
        found[FLAGS_FILE] = ("flags", table)
        positive = table[table["value"] > 0.5].groupby("flag")["study"].nunique()
        counts = ", ".join(f"{name} {count:,}" for name, count in positive.items()) or "none"
        report.inform(f"Flags of studies, which are no labels: {counts}.")
    return found


def table_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return the counts and a digest of a table of readers or flags, which does not depend on the workspace's key."""
    kind = "reader" if "reader" in table else "flag"
    counted = table.dropna(subset=["value"])
    parts = [kind, *(["label"] if kind == "reader" else [])]
    positive = counted[counted["value"] > 0.5].groupby(parts)["study"].nunique()
    text = "\n".join(f"{name} {count}" for name, count in positive.items())
    # Without the hashes of studies: their order in the source, and the values.
    order = pd.factorize(table["study"])[0]
    digest = hashlib.sha256(text.encode() + order.tobytes() + table["value"].to_numpy(float).tobytes()).hexdigest()
    return {
        kind + "s": sorted(table[kind].unique().tolist()),
        "studies": int(table["study"].nunique()),
        "positive": {
            " ".join(map(str, name)) if isinstance(name, tuple) else str(name): int(count)
            for name, count in positive.items()
        },
        "digest": digest[:16],
    }


def _study_of(catalog: pd.DataFrame, scan: pd.DataFrame, table: LabelTable) -> "pd.Series[str]":
    """Return the study in the catalog by position of an id of `table` that matches."""
    match = match_groups(catalog, scan, table)
    rows = match.row_id >= 0
    pairs = pd.DataFrame({"id": match.row_id[rows], "study": catalog["study"].to_numpy(object)[rows]})
    return pairs.drop_duplicates("id").sort_values("id").set_index("id")["study"]


def _reader_rows(reader: str, table: LabelTable, study: "pd.Series[str]") -> pd.DataFrame:
    values = table.values[study.index.to_numpy()]
    return pd.DataFrame(
        {
            "study": np.repeat(study.to_numpy(object), len(LABELS)),
            "reader": reader,
            "label": list(LABELS) * len(study),
            "value": values.ravel().astype(float),
        }
    )


def _without_labels(folders: list[str], name: str) -> LabelTable:
    """Return a table of the folders of studies, to match them."""
    values = np.zeros((len(folders), len(LABELS)), np.float32)
    return LabelTable(np.array(folders, object), values, level="study", kind="folder", origin=f"the flag {name}")


def _flag_rows(name: str, values: Mapping[str, float], study: "pd.Series[str]") -> pd.DataFrame:
    found = np.array(list(values.values()), float)[study.index.to_numpy()]
    rows = pd.DataFrame({"study": study.to_numpy(object), "flag": name, "value": found})
    return rows.dropna(subset=["value"])
