"""Subgroups of slices by how and of whom they were acquired: `scanner`, `kernel`, `age` and others.

Values come from the catalog; their scores are in `ichx.evaluation.subgroup_scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import known_acquisition
from ichx.datasets.mixture import PART
from ichx.errors import InvalidInputError, NotReadyError, did_you_mean

UNKNOWN: Final = "unknown"
"""Group of the slices whose header does not have the field."""

THICKNESSES: Final = (1.5, 3.0, 5.0)
SPACINGS: Final = (0.4, 0.45, 0.5)
STEPS: Final = (1.5, 3.0, 5.0)
"""Upper ends in mm of all bands but the last."""

_HEAD: Final = r"HEAD|BRAIN|SKULL|CRANI|NEURO|CEREBR|ORBIT|FACE|SINUS"
"""Parts of the names of body parts that show the brain (DICOM PS3.16, annex L, and what scanners write)."""

Grouping = Callable[[pd.DataFrame], "pd.Series[str]"]
"""Returns the group of each slice of a catalog."""


def group_names(slices: pd.DataFrame, field: str) -> npt.NDArray[np.object_]:
    """Return the group of each slice by `field`, `(N,)` texts.

    Args:
        slices: Rows of a catalog.
        field: A key of `FIELDS`.

    Raises:
        InvalidInputError: There is no such field.
        NotReadyError: No slice has it.
    """
    check_field(field)
    found = FIELDS[field](slices).to_numpy(object)
    if len(found) and (found == UNKNOWN).all():
        known = [name for name, grouping in FIELDS.items() if (grouping(slices) != UNKNOWN).any()]
        remedy = f"Use one of {', '.join(known)}."
        if not known_acquisition(slices):
            remedy = f"`ichx data add` of the same files reads header fields that an earlier version skipped. {remedy}"
        raise NotReadyError(f"No slice has a value for {field!r} in its header.", remedy)
    return np.asarray(found, object)


def check_field(field: str) -> None:
    """Raise `InvalidInputError` if there is no such field."""
    if field not in FIELDS:
        hint = did_you_mean(field, list(FIELDS))
        raise InvalidInputError(f"Unknown field: {field!r}.", f"{hint}Use one of {', '.join(FIELDS)}.")


def fields_with_values(
    slices: pd.DataFrame, fields: Sequence[str], *, required: bool = True
) -> tuple[list[str], list[str]]:
    """Return which of `fields` some slice has, and which none has.

    Raises:
        InvalidInputError: There is no such field.
        NotReadyError: No slice has any of them, and `required` is true.
    """
    found: list[str] = []
    missing: dict[str, NotReadyError] = {}
    for field in dict.fromkeys(fields):
        try:
            group_names(slices, field)
        except NotReadyError as error:
            missing[field] = error
        else:
            found.append(field)
    if missing and not found and required:
        raise next(iter(missing.values()))
    return found, list(missing)


def unusual_studies(slices: pd.DataFrame) -> list[tuple[list[str], str]]:
    """Return the ids of the studies with contrast, and of those of another body part, each with a description."""
    part = slices["body_part"]
    other = (part != "") & ~part.str.contains(_HEAD, regex=True)
    parts = ", ".join(sorted(part[other].unique())[:3])
    kinds = [(slices["contrast"] == "yes", "with a contrast agent"), (other, f"of another body part ({parts})")]
    return [
        ([str(study) for study in slices["study"][rows].unique()], what) for rows, what in kinds if bool(rows.any())
    ]


def _texts(name: str) -> Grouping:
    def of(slices: pd.DataFrame) -> "pd.Series[str]":
        return slices[name].astype(object).where(slices[name] != "", UNKNOWN)

    return of


def _part(slices: pd.DataFrame) -> "pd.Series[str]":
    """Return the part of each slice of a mixture; unknown for other slices, e.g. of files that are in no dataset."""
    return _texts(PART)(slices) if PART in slices else pd.Series(UNKNOWN, index=slices.index, dtype=object)


def _scanner(slices: pd.DataFrame) -> "pd.Series[str]":
    both = (slices["manufacturer"].astype(object) + " " + slices["model"].astype(object)).str.strip()
    return both.where(both != "", UNKNOWN)


def _bands(name: str, ends: Sequence[float], *, absolute: bool = False) -> Grouping:
    """Return a grouping of a number in mm by the bands up to each of `ends`, and above the last."""
    names = [f"<= {ends[0]:g} mm", *(f"{low:g} to {high:g} mm" for low, high in pairwise(ends))]
    labels = np.array([*names, f"> {ends[-1]:g} mm", UNKNOWN], object)

    def of(slices: pd.DataFrame) -> "pd.Series[str]":
        values = slices[name].to_numpy(float)
        values = np.abs(values) if absolute else values
        band = np.searchsorted(ends, values - 1e-4)  # 5.00001 mm is 5 mm
        return pd.Series(labels[np.where(np.isnan(values), len(ends) + 1, band)], index=slices.index)

    return of


def _kvp(slices: pd.DataFrame) -> "pd.Series[str]":
    return _format(slices["kvp"], lambda value: f"{value:g} kV")


def _format(values: "pd.Series[float]", text: Callable[[float], str]) -> "pd.Series[str]":
    codes, found = pd.factorize(values, use_na_sentinel=True)
    names = np.array([*(text(value) for value in found), UNKNOWN], object)
    return pd.Series(names[codes], index=values.index)


def _pixels(slices: pd.DataFrame) -> "pd.Series[str]":
    fields = ("bits_stored", "signed", "intercept", "rows", "columns")
    keys = pd.MultiIndex.from_frame(slices[list(fields)])
    codes, found = pd.factorize(keys)
    names = np.array([_pixel_format(*key) for key in found], object)
    return pd.Series(names[codes] if len(names) else np.empty(0, object), index=slices.index)


def _pixel_format(bits: int, signed: bool, intercept: float, rows: int, columns: int) -> str:
    return f"{bits}-bit {'signed' if signed else 'unsigned'}, intercept {intercept:g}, {rows} x {columns}"


FIELDS: Final[Mapping[str, Grouping]] = MappingProxyType(
    {
        "scanner": _scanner,
        "manufacturer": _texts("manufacturer"),
        "model": _texts("model"),
        "kernel": _texts("kernel"),
        "kvp": _kvp,
        "thickness": _bands("thickness", THICKNESSES),
        "spacing": _bands("spacing_row", SPACINGS),
        "step": _bands("step", STEPS, absolute=True),
        "contrast": _texts("contrast"),
        "body_part": _texts("body_part"),
        "age": _texts("age"),
        "sex": _texts("sex"),
        "institution": _texts("institution"),
        "pixels": _pixels,
        "part": _part,
    }
)
"""Fields by which slices can be grouped: of the header, or of the geometry and pixel format that every slice has.

- `scanner`: manufacturer and model; `thickness`: SliceThickness; `step`: distance from the previous slice of the series
- `spacing`: of pixels in the image; `pixels`: bits, sign, intercept and size; `institution`: a keyed hash
- `part`: the dataset of which a slice of a mixture is
"""

REPORTED: Final = ("part", "scanner", "kernel", "thickness", "contrast", "age", "sex", "institution")
"""Fields of a report, as far as headers have them."""


def reported_fields(slices: pd.DataFrame) -> list[str]:
    """Return the fields of `REPORTED` with at least two known groups; `pixels` if no header names the scanner."""

    def splits(field: str) -> bool:
        names = FIELDS[field](slices)
        return names[names != UNKNOWN].nunique() > 1

    names_scanner = bool((FIELDS["scanner"](slices) != UNKNOWN).any())
    return [field for field in (*REPORTED, *(() if names_scanner else ("pixels",))) if splits(field)]
