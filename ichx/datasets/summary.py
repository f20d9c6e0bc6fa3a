"""Counts of a catalog: slices, prevalences, header families, defects. They are displayed in `ichx.cli.data_views`."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.assumptions import ASSUMPTIONS
from ichx.datasets.catalog import usable_slices
from ichx.datasets.defects import DEFECTS
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.series import count_flags
from ichx.datasets.study_labels import study_labels_of, without_unscored
from ichx.labels import LABELS
from ichx.text import EXAMPLES

MODALITY: Final = "modality "
"""Start of the detail of the defect `not_ct` of a file that has a modality."""


def summarize(catalog: pd.DataFrame) -> dict[str, Any]:
    """Return counts of the usable slices of `catalog` and of its defects, as JSON values."""
    slices = usable_slices(catalog)
    return {
        "files": int((catalog["frame"] <= 1).sum()),
        "slices": len(slices),
        "patients": int(slices["patient"].nunique()),
        "studies": int(slices["study"].nunique()),
        "series": len(slices[["study", "series"]].drop_duplicates()),
        "intercept_repaired": int(slices["intercept_repaired"].sum()),
        "window_missing": int(slices["window_missing"].sum()),
        "assumptions": count_assumptions(slices),
        "geometry": count_flags(slices),
        "prevalences": prevalences(slices),
        "defects": {str(reason): int(count) for reason, count in catalog["defect"].value_counts().items()},
        "modalities": _modalities(catalog),
    }


def count_assumptions(slices: pd.DataFrame) -> dict[str, int]:
    """Return the number of `slices` with each of `ASSUMPTIONS` that occurs."""
    counts = {name: int(_assumed(slices, name).sum()) for name in ASSUMPTIONS}
    return {name: count for name, count in counts.items() if count}


def assumed_slices(slices: pd.DataFrame, name: str, count: int = EXAMPLES) -> pd.DataFrame:
    """Return the first slice of each of the first `count` files with the assumption `name`."""
    return slices[_assumed(slices, name)].drop_duplicates("file").head(count)


def assumption_examples(slices: pd.DataFrame, name: str) -> list[str]:
    """Return the first files with the assumption `name`."""
    return [str(file) for file in assumed_slices(slices, name)["file"]]


def describe_assumptions(slices: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each assumption that occurs with its meaning, the number of slices, and the first files."""
    return [
        {
            "assumption": name,
            "meaning": ASSUMPTIONS[name],
            "slices": count,
            "examples": assumption_examples(slices, name),
        }
        for name, count in count_assumptions(slices).items()
    ]


def format_defects(catalog: pd.DataFrame) -> str:
    """Return the defects of `catalog` and their numbers, e.g. `not_ct 3 (MR 2, SR 1), truncated 1`."""
    parts = []
    for reason, count in catalog["defect"].value_counts().items():
        modalities = _modalities(catalog) if reason == "not_ct" else {}
        found = ", ".join(f"{name} {number:,}" for name, number in modalities.items())
        parts.append(f"{reason} {count:,}" + (f" ({found})" if found else ""))
    return ", ".join(parts)


def prevalences(slices: pd.DataFrame) -> dict[str, float | None] | None:
    """Return the share of positive slices per label among those where it is known; None without labels.

    The share of a label is None if it is not known for any slice, if scores leave it out, or if only a study or series
    is known to be positive: the known slices are then those of negative studies.
    """
    truth = without_unscored(slices[list(LABELS)].to_numpy(np.float32), slices)
    of_group = study_labels_of(slices)
    known = (~np.isnan(truth)).sum(axis=0)
    if not known.any() and (of_group is None or np.isnan(of_group).all()):
        return None
    if of_group is not None:
        known = np.where((np.isnan(truth) & (of_group > 0.5)).any(axis=0), 0, known)
    shares = (truth > 0.5).sum(axis=0) / np.maximum(known, 1)
    return {name: float(shares[k]) if known[k] else None for k, name in enumerate(LABELS)}


def header_families(slices: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the combinations of pixel format, rescale values and image size, the most frequent first."""
    fields = ["bits_stored", "signed", "slope", "intercept", "rows", "columns", "transfer_syntax"]
    counts = slices.groupby(fields, sort=True).size().sort_values(ascending=False, kind="stable")
    families = counts.rename("slices").reset_index()
    return [{str(name): _plain(value) for name, value in row.items()} for row in families.to_dict("records")]


def describe_defects(catalog: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each defect of `catalog` with its meaning, its number of files or frames, and the first files.

    `details` are what was found in these files; empty if nothing is known.
    """
    described = []
    for reason, count in catalog["defect"].value_counts().items():
        first = defective_rows(catalog, str(reason), EXAMPLES)
        described.append(
            {
                "reason": str(reason),
                "meaning": DEFECTS[str(reason)],
                "files": int(count),
                "examples": first["file"].tolist(),
                "details": first["detail"].tolist(),
            }
        )
    return described


def defective_rows(catalog: pd.DataFrame, reason: str, count: int = EXAMPLES) -> pd.DataFrame:
    """Return the first row of each of the first `count` files with the defect `reason`."""
    return catalog[catalog["defect"] == reason].drop_duplicates("file").head(count)


def summarize_folds(slices: pd.DataFrame, folds: npt.NDArray[np.int16], k: int) -> list[dict[str, Any]]:
    """Return the number of slices and patients and the prevalences of each fold, that of `TRAIN_ONLY` last if used."""
    numbers = [*range(k), *([TRAIN_ONLY] if (folds == TRAIN_ONLY).any() else [])]
    return [
        {
            "fold": fold,
            "slices": int((folds == fold).sum()),
            "patients": int(slices["patient"][folds == fold].nunique()),
            "prevalences": prevalences(slices[folds == fold]) or dict.fromkeys(LABELS),
        }
        for fold in numbers
    ]


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _assumed(slices: pd.DataFrame, name: str) -> npt.NDArray[np.bool_]:
    """Return which `slices` have the assumption `name`."""
    if name in slices:
        return slices[name].to_numpy(bool)
    found = slices["assumptions"]
    combined = {text: name in text.split() for text in found.unique()}
    return found.map(combined).to_numpy(bool)


def _modalities(catalog: pd.DataFrame) -> dict[str, int]:
    """Return the number of files by modality that are excluded as `not_ct`."""
    details = catalog["detail"][catalog["defect"] == "not_ct"]
    named = details[details.str.startswith(MODALITY)].str.removeprefix(MODALITY)
    return {str(name): int(count) for name, count in named.value_counts().items()}
