"""How and of whom a slice was acquired: the fields of a header by which studies of a model form subgroups.

Text is what scanners write, without control characters. Ages are bands of ten years. No name, date or description is
read.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Final

from ichx.ct import elements as tags
from ichx.ct.elements import Values

LONGEST: Final = 64
"""Characters of a text; longer ones are cut."""
IMPLAUSIBLE: Final = "implausible"
"""Age band of a PatientAge that no person has."""
OLDEST: Final = 90
"""Years from which all ages are one band: fewer people are so old that an age might identify one."""
LARGEST_AGE: Final = 130
LARGEST_KVP: Final = 1000.0
LARGEST_THICKNESS: Final = 100.0
"""Plausible tube voltages in kV and slice thicknesses in mm. Others count as missing."""
AGE_UNITS: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
"""Units of a PatientAge (DICOM PS3.5, 6.2, AS) and how many of them a year has."""
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_NO_AGENT = re.compile(r"NO|NONE|N|0|NIL|WITHOUT.*|W/?O.*|PLAIN|UNENHANCED|NON.?CONTRAST", re.IGNORECASE)
_UNREADABLE = re.compile(r"[^\x20-\x7e\xa1-\xff]+")


@dataclass(frozen=True)
class Acquisition:
    """The acquisition fields of a header. Missing texts are empty, missing numbers NaN."""

    manufacturer: str = ""
    model: str = ""
    kernel: str = ""
    """Convolution kernel; several values are joined by `/`."""
    kvp: float = math.nan
    """Tube voltage in kV."""
    thickness: float = math.nan
    """Slice thickness in mm, which may differ from the spacing."""
    contrast: str = ""
    """`yes` with a contrast agent, `no` if the header says that there is none."""
    body_part: str = ""
    """In capitals."""
    sex: str = ""
    """`F`, `M` or `O`."""
    age: str = ""
    """A band of ten years, e.g. `40-49`, or `90+`; `IMPLAUSIBLE` for an age that no person has."""
    institution: str = ""
    """As in the header. A catalog keeps its keyed hash only."""


ACQUISITION_FIELDS: Final = tuple(field.name for field in fields(Acquisition))
"""Names of the acquisition fields."""

UNKNOWN: Final = Acquisition()
"""Nothing is known."""


def read_acquisition(values: Values) -> Acquisition:
    """Return the acquisition fields of a slice's raw `values`, with defaults for what is missing."""
    agent = _text(values, tags.CONTRAST_AGENT)
    sex = _text(values, tags.SEX).upper()
    return Acquisition(
        manufacturer=_text(values, tags.MANUFACTURER),
        model=_text(values, tags.MODEL),
        kernel=_text(values, tags.KERNEL),
        kvp=_number(values, tags.KVP, LARGEST_KVP),
        thickness=_number(values, tags.THICKNESS, LARGEST_THICKNESS),
        contrast="" if not agent else "no" if _NO_AGENT.fullmatch(agent) else "yes",
        body_part=_text(values, tags.BODY_PART).upper(),
        sex=sex if sex in ("F", "M", "O") else "",
        age=age_band(_text(values, tags.AGE)),
        institution=_text(values, tags.INSTITUTION),
    )


def image_type(values: Values) -> str:
    """Return the values of the frame's type, or of the ImageType, in capitals, joined by `/`; they are codes."""
    return (_text(values, tags.FRAME_TYPE) or _text(values, tags.IMAGE_TYPE)).upper()


def age_band(text: str) -> str:
    """Return the band of a PatientAge, e.g. `40-49` of `047Y` and `0-9` of `18M`; empty if it is no age."""
    found = _AGE.fullmatch(text.strip().upper())
    if found is None:
        return ""
    years = int(found[1]) / AGE_UNITS[found[2]]
    if years > LARGEST_AGE:
        return IMPLAUSIBLE
    low = int(years) // 10 * 10
    return f"{OLDEST}+" if low >= OLDEST else f"{low}-{low + 9}"


def _text(values: Values, tag: int) -> str:
    raw = values.get(tag)
    if not raw:
        return ""
    text = raw.decode("latin-1").replace("\\", "/")
    return " ".join(_UNREADABLE.sub(" ", text).split())[:LONGEST].strip()


def _number(values: Values, tag: int, largest: float) -> float:
    """Return the first decimal number above 0; NaN if there is none, or one above `largest`."""
    try:
        number = float(_text(values, tag).split("/")[0].replace("_", "?"))
    except ValueError:
        return math.nan
    return number if 0 < number <= largest else math.nan
