"""Selecting one series per study, so that localizers, bone kernels, reformats and contrast phases are not added.

The rules are read in `series_rules`. Slices of other series stay in the catalog with the defect `series_left_out`; its
detail is the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import EMPTY
from ichx.datasets.series import FLAGS, series_codes
from ichx.datasets.series_rules import SeriesRule, SeriesRules
from ichx.text import EXAMPLES

LEFT_OUT: Final = "series_left_out"
"""The defect of slices of a series that was not selected."""
FEWER_SLICES: Final = "fewer slices than the selected series"
LATER: Final = "equal to the selected series"
"""Reasons for which a series was left out though no rule prefers the selected one."""
FILE: Final = "#"
"""Between the file and the number of a slice in a volume."""
_GEOMETRY: Final = ("position", "order", "run", "step", "tilt", *FLAGS)


@dataclass(frozen=True)
class SeriesSelection:
    """Which series were selected."""

    studies: int
    series: int
    selected: int
    """Number of selected series: one per study, except for studies in `without`."""
    reasons: Mapping[str, tuple[int, tuple[str, ...]]]
    """Reason -> number of series that were left out for it, and the first of them as `FOLDER (N slices)`."""
    without: tuple[str, ...]
    """Studies without a selected series: `STUDY (reasons)`."""

    def to_dict(self, rules: SeriesRules) -> dict[str, Any]:
        """Return the counts for the summary of a version."""
        return {
            "rules": rules.digest,
            "series": self.series,
            "selected": self.selected,
            "left_out": {reason: count for reason, (count, _) in self.reasons.items()},
            "studies_without": len(self.without),
        }


def select_series(
    catalog: pd.DataFrame, image_types: "pd.Series[str]", rules: SeriesRules
) -> tuple[pd.DataFrame, SeriesSelection]:
    """Return `catalog` with one series per study; slices of other series have the defect `LEFT_OUT`.

    Args:
        catalog: A catalog; its excluded files remain as they are.
        image_types: The ImageType of each row, values joined by `/`.
        rules: What is left out and what is preferred.
    """
    good = np.flatnonzero(catalog["defect"].isna())
    slices = catalog.iloc[good]
    codes = series_codes(slices)
    series = _describe(slices, image_types.iloc[good], codes)
    reason = _reasons(series, rules)
    changed = catalog.copy()
    out = good[(reason != "")[codes]]
    changed.loc[changed.index[out], "defect"] = LEFT_OUT
    changed.loc[changed.index[out], "detail"] = reason[codes][reason[codes] != ""]
    for name in _GEOMETRY:
        changed.loc[changed.index[out], name] = EMPTY[changed[name].dtype.kind]
    return changed, _summary(series, reason)


def _describe(slices: pd.DataFrame, image_types: "pd.Series[str]", codes: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Return one row per series, in the order of `codes`, with what rules can ask for."""
    first = pd.DataFrame({"code": codes}).drop_duplicates("code").sort_values("code").index.to_numpy()
    by_series = slices.groupby(codes, sort=True)
    heads = slices.iloc[first]
    step = by_series["step"].median().abs()
    thickness = by_series["thickness"].median()
    return pd.DataFrame(
        {
            "study": heads["study"].to_numpy(object),
            "folder": [series_folder(str(file)) for file in heads["file"]],
            "image_type": image_types.iloc[first].to_numpy(object),
            "kernel": heads["kernel"].to_numpy(object),
            "body_part": heads["body_part"].to_numpy(object),
            "thickness": thickness.where(thickness.notna(), step).to_numpy(float),
            "slices": by_series.size().to_numpy(),
            "axial": ~by_series["not_axial"].any().to_numpy(bool),
            "contrast": (by_series["contrast"].max() == "yes").to_numpy(bool),
            "slice_id": by_series["slice_id"].min().to_numpy(object),
        }
    )


def series_folder(file: str) -> str:
    """Return the name of the folder of `file`, or the volume's name for a file with a number, e.g. `ct.nii.gz#017`."""
    path, hash_sign, _ = file.partition(FILE)
    folder, _, name = path.rpartition("/")
    return name if hash_sign else folder.rpartition("/")[2]


def meets(series: pd.DataFrame, rule: SeriesRule) -> npt.NDArray[np.bool_]:
    """Return which `series` meet all conditions of `rule`, (n,)."""
    met = np.ones(len(series), bool)
    for key, pattern in rule.texts.items():
        texts = series[key.removeprefix("not_")]
        codes, distinct = pd.factorize(texts)
        # An underscore is a letter to a regular expression.
        found = np.array(
            [bool(text) and pattern.search(str(text).replace("_", " ")) is not None for text in distinct], bool
        )
        met &= (found if not key.startswith("not_") else ~found)[codes]
    for key, (least, most) in rule.ranges.items():
        values = series[key].to_numpy(float)
        met &= (values >= least) & (values <= most)
    for key, wanted in rule.flags.items():
        met &= series[key].to_numpy(bool) == wanted
    return met


def _reasons(series: pd.DataFrame, rules: SeriesRules) -> npt.NDArray[np.object_]:
    """Return why each of `series` was left out, (n,); empty for those that were selected."""
    reason = np.full(len(series), "", object)
    for rule in rules.leave_out:
        reason[(reason == "") & meets(series, rule)] = rule.name
    rest = np.flatnonzero(reason == "")
    criteria = [~meets(series.iloc[rest], rule) for rule in rules.prefer]
    keys = [*criteria, -series["slices"].to_numpy()[rest]]
    study = pd.factorize(series["study"].iloc[rest])[0]
    order = np.lexsort([series["slice_id"].iloc[rest].to_numpy(str), *reversed(keys), study])
    names = [*(rule.name for rule in rules.prefer), FEWER_SLICES]
    winner = -1
    for place in order:
        if winner < 0 or study[place] != study[winner]:
            winner = int(place)
            continue
        lost = next((name for name, key in zip(names, keys, strict=True) if key[place] != key[winner]), LATER)
        reason[rest[place]] = f"another series is preferred: {lost}" if lost not in (FEWER_SLICES, LATER) else lost
    return reason


def _summary(series: pd.DataFrame, reason: npt.NDArray[np.object_]) -> SeriesSelection:
    shown = series["folder"].where(series["folder"] != "", series["slice_id"]).astype(str)
    shown += " (" + series["slices"].astype(str) + " slices)"
    counts = pd.Series(reason[reason != ""]).value_counts()
    reasons = {
        str(name): (int(count), tuple(dict.fromkeys(shown[reason == name]))[:EXAMPLES])
        for name, count in counts.items()
    }
    selected = set(series["study"][reason == ""])
    lost = pd.DataFrame({"study": series["study"], "reason": reason})[~series["study"].isin(selected)]
    without = [f"{study} ({', '.join(dict.fromkeys(rows))})" for study, rows in lost.groupby("study")["reason"]]
    return SeriesSelection(
        studies=int(series["study"].nunique()),
        series=len(series),
        selected=int((reason == "").sum()),
        reasons=reasons,
        without=tuple(without),
    )
