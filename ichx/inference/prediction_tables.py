"""The tables of file predictions: one row per slice, per study, per series. They are written by `prediction_files`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ichx.ct.assumptions import ASSUMPTIONS
from ichx.datasets.series import FLAGS
from ichx.evaluation.metric import FloatArray
from ichx.labels import ANY, LABELS
from ichx.text import EXAMPLES, format_count, format_examples


def slice_table(
    catalog: pd.DataFrame, slices: pd.DataFrame, predicted: FloatArray, reasons: dict[int, str]
) -> pd.DataFrame:
    """Return the `slices` of `FilePredictions`: the usable `slices`, then the defects of `catalog`.

    Args:
        catalog: The catalog of all files.
        slices: Its usable slices, (N,) rows.
        predicted: Their probabilities (N, 6), NaN where decoding fails.
        reasons: The defects that decoding shows, by row of `slices`.
    """
    columns = ["slice_id", "patient", "study", "series", "order", "position", "file", "frame"]
    good = slices[columns].copy()
    good[list(LABELS)] = predicted
    named = [name for name in (*FLAGS, *ASSUMPTIONS) if name in slices]
    good["flags"] = _joined([slices["assumptions"], *(np.where(slices[name], name, "") for name in named)])
    good["detail"] = pd.Series([None] * len(good), dtype=object)
    good["defect"] = pd.Series([reasons.get(row) for row in range(len(good))], dtype=object)
    refused = catalog.loc[catalog["defect"].notna(), [*columns, "defect", "detail"]].reset_index(drop=True)
    refused["defect"] = refused["defect"].astype(object)
    refused["detail"] = refused["detail"].astype(object).where(refused["detail"] != "", None)
    refused[list(LABELS)] = np.nan
    refused["flags"] = pd.Series([None] * len(refused), dtype=object)
    both = pd.concat([good, refused], ignore_index=True) if len(refused) else good
    both["order"] = both["order"].astype("Int64").where(both["order"] >= 0)
    for name in ("slice_id", "patient", "study", "series"):
        both[name] = both[name].astype(object).where(both[name] != "", None)
    return both[["slice_id", *columns[1:6], *LABELS, "flags", "defect", "detail", "file", "frame"]]


def _joined(names: Sequence[Iterable[str]]) -> "pd.Series[Any]":
    """Return the names at each position that are not empty, separated by spaces; None if there are none."""
    return pd.Series([" ".join(filter(None, row)) or None for row in zip(*names, strict=True)], dtype=object)


def study_table(table: pd.DataFrame, label: str = ANY) -> pd.DataFrame:
    """Return the `studies` of `FilePredictions` from its `slices`, in the order of their first slices.

    `label` determines their most suspicious slices.
    """
    return _grouped(table, ["study"], label)


def series_table(table: pd.DataFrame, label: str = ANY) -> pd.DataFrame:
    """Return the `series` of `FilePredictions` from its `slices`, like `study_table`."""
    return _grouped(table, ["study", "series"], label)


def with_learnt(studies: pd.DataFrame, slices: pd.DataFrame, learnt: FloatArray) -> pd.DataFrame:
    """Return `studies` with the columns `learnt_LABEL`.

    Args:
        studies: What `study_table` returns.
        slices: The usable slices, `(N,)` rows with `study`.
        learnt: Probabilities of each slice's study, `(N, 6)`; NaN where decoding fails. The largest of a study counts.
    """
    columns = [f"learnt_{label}" for label in LABELS]
    of_study = pd.DataFrame(learnt, columns=columns).groupby(slices["study"].to_numpy(object)).max()
    return studies.join(of_study, on="study")


def _union(flags: "pd.Series[Any]") -> Any:
    """Return all names in `flags`, once each; None if there are none."""
    return " ".join(sorted({name for names in flags.dropna() for name in names.split()})) or None


def _grouped(table: pd.DataFrame, keys: list[str], label: str) -> pd.DataFrame:
    known = table[table[keys].notna().all(axis=1)]
    grouped = known.groupby(keys, sort=False)
    found = grouped[["patient"]].first()
    found["slices"] = grouped.size()
    found["left_out"] = grouped["defect"].count()
    seen = known[known["defect"].isna()]
    others = [name for name in ("slice_id", "series", "order") if name not in keys]
    if "series" in others:
        found["series"] = seen.groupby(keys)["series"].nunique().reindex(found.index, fill_value=0)
    found[list(LABELS)] = grouped[list(LABELS)].max()
    best = seen.loc[seen.groupby(keys, sort=False)[label].idxmax()].set_index(keys)
    for name in others:
        found[f"suspicious_{name}"] = best[name]
    found["flags"] = grouped["flags"].agg(_union)
    ids = ["patient", *keys]
    return found.reset_index()[[*ids, *(name for name in found.columns if name not in ids)]]


def pooling_warnings(studies: pd.DataFrame) -> list[str]:
    """Return a warning if studies have several series, e.g. of a brain and a bone kernel."""
    several = studies[studies["series"] > 1]
    if not len(several):
        return []
    examples = [f"{row.study} ({row.series} series)" for row in several.head(EXAMPLES).itertuples()]
    return [
        f"{format_count(len(several), 'study has', 'studies have')} several series, whose slices are pooled: the "
        f"probability of a study is the maximum over all of them{format_examples(examples, len(several))}. Each series "
        "alone is in the output too."
    ]
